#include "cli/plan/model_config.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/model/bounded_json.h"
#include "worker/model/config.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;
using planner::ModelShape;

// What stands in the file may be a megabyte.
std::string Short(const Json& value) {
  constexpr size_t kMaxBytes = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

// Reads sizes. The first error is kept and later reads give the fallback.
class Sizes {
 public:
  explicit Sizes(const Json& config) : config_(config) {}

  const absl::Status& status() const { return status_; }

  int Get(const char* field) { return Read(field, nullptr); }
  int Get(const char* field, int fallback) { return Read(field, &fallback); }

 private:
  static constexpr int64_t kMax = int64_t{1} << 24;  // above any published size

  int Read(const char* field, const int* fallback) {
    if (!status_.ok()) return 1;
    const auto it = config_.find(field);
    if ((it == config_.end() || it->is_null()) && fallback != nullptr) return *fallback;
    if (it != config_.end() && it->is_number_integer()) {
      const auto value = it->is_number_unsigned() && it->get<uint64_t>() > uint64_t{kMax}
                             ? kMax + 1
                             : it->get<int64_t>();
      if (value >= 0 && value <= kMax) return static_cast<int>(value);
    }
    status_ = absl::InvalidArgumentError(
        absl::StrCat("config.json: ", field,
                     it == config_.end() ? " is missing" : absl::StrCat(" is ", Short(*it)),
                     "; it must be an integer from 0 to ", kMax));
    return 1;
  }

  const Json& config_;
  absl::Status status_;
};

void ReadMixtral(Sizes* sizes, ModelShape* shape) {
  shape->num_experts = sizes->Get("num_local_experts");
  shape->expert_intermediate = sizes->Get("intermediate_size");
  const int heads = sizes->Get("num_attention_heads");
  SetGroupedQueryAttention(heads, sizes->Get("num_key_value_heads", heads),
                           sizes->Get("head_dim", heads > 0 ? shape->hidden / heads : 0), shape);
}

void ReadQwen3(Sizes* sizes, ModelShape* shape) {
  shape->num_experts = sizes->Get("num_experts");
  shape->expert_intermediate = sizes->Get("moe_intermediate_size");
  const int heads = sizes->Get("num_attention_heads");
  SetGroupedQueryAttention(heads, sizes->Get("num_key_value_heads", heads),
                           sizes->Get("head_dim", heads > 0 ? shape->hidden / heads : 0), shape);
}

void ReadDeepSeek(Sizes* sizes, ModelShape* shape) {
  shape->num_experts = sizes->Get("n_routed_experts");
  shape->expert_intermediate = sizes->Get("moe_intermediate_size");
  // CheckShape refuses the largest number.
  shape->shared_intermediate = static_cast<int>(
      std::min<int64_t>(int64_t{sizes->Get("n_shared_experts", 0)} * shape->expert_intermediate,
                        std::numeric_limits<int>::max()));
  shape->num_dense_layers = sizes->Get("first_k_dense_replace", 0);
  shape->dense_intermediate = shape->num_dense_layers > 0 ? sizes->Get("intermediate_size") : 0;
  SetLatentAttention({.num_heads = sizes->Get("num_attention_heads"),
                      .q_lora_rank = sizes->Get("q_lora_rank", 0),
                      .kv_lora_rank = sizes->Get("kv_lora_rank"),
                      .nope_dim = sizes->Get("qk_nope_head_dim"),
                      .rope_dim = sizes->Get("qk_rope_head_dim"),
                      .value_dim = sizes->Get("v_head_dim")},
                     shape);
}

// What a layer pattern would make wrong here.
absl::Status CheckEveryLayerHasExperts(const Json& config) {
  const Json* only = config.contains("mlp_only_layers") ? &config["mlp_only_layers"] : nullptr;
  if (only != nullptr && !only->is_null() && !(only->is_array() && only->empty())) {
    return absl::UnimplementedError(
        "config.json: mlp_only_layers is set; layers without experts are only known as the first "
        "layers of DeepSeek");
  }
  for (const char* field : {"decoder_sparse_step", "moe_layer_freq"}) {
    if (config.contains(field) && config[field] != 1) {
      return absl::UnimplementedError(absl::StrCat("config.json: ", field, " is ",
                                                   Short(config[field]), "; only 1 is known here"));
    }
  }
  return absl::OkStatus();
}

// Block-wise fp8 as DeepSeek-V3 has it; other quantizations are not priced.
absl::Status ReadQuantization(const Json& config, ModelShape* shape) {
  const auto it = config.find("quantization_config");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  const std::string method =
      it->is_object() && it->contains("quant_method") && (*it)["quant_method"].is_string()
          ? (*it)["quant_method"].get<std::string>()
          : "";
  if (method != "fp8") {
    return absl::UnimplementedError(
        absl::StrCat("config.json: quantization_config.quant_method is ",
                     model::QuoteForMessage(method), "; known are none and \"fp8\""));
  }
  shape->bytes_per_weight = 1;
  shape->bytes_per_dispatched = 1.0 + 4.0 / 128;  // one fp32 scale for each 128 values
  return absl::OkStatus();
}

absl::StatusOr<ModelShape> FromOlmoe(std::string_view config_json, const std::string& name) {
  const auto config = model::ParseModelConfig(config_json);
  if (!config.ok()) return config.status();
  ModelShape shape{.name = name,
                   .hidden = config->hidden,
                   .num_layers = config->num_layers,
                   .num_experts = config->num_experts,
                   .top_k = config->top_k,
                   .expert_intermediate = config->intermediate,
                   .vocab_size = config->vocab_size,
                   .tied_embeddings = config->tie_word_embeddings,
                   .max_positions = config->max_positions};
  SetGroupedQueryAttention(config->num_heads, config->num_kv_heads, config->head_dim, &shape);
  if (absl::Status status = CheckShape(shape); !status.ok()) return status;
  return shape;
}

}  // namespace

absl::StatusOr<ModelShape> ParseModelShape(std::string_view config_json, const std::string& name) {
  const auto config = model::ParseJsonObject(config_json, "config.json");
  if (!config.ok()) return config.status();
  const auto it = config->find("model_type");
  const std::string type = it != config->end() && it->is_string() ? it->get<std::string>() : "";
  const bool deepseek = type == "deepseek_v2" || type == "deepseek_v3";
  ModelShape shape;
  if (type != "mixtral" && type != "qwen3_moe" && !deepseek) {
    if (type.empty() || type == "olmoe") {
      absl::StatusOr<ModelShape> olmoe = FromOlmoe(config_json, name);
      if (!olmoe.ok()) return olmoe.status();
      shape = *olmoe;
      if (absl::Status status = CheckShape(shape); !status.ok()) return status;
      return shape;
    }
    return absl::UnimplementedError(
        absl::StrCat("config.json: model_type is ", model::QuoteForMessage(type),
                     "; known are olmoe, mixtral, qwen3_moe, deepseek_v2, deepseek_v3"));
  }
  Sizes sizes(*config);
  shape.name = name;
  shape.hidden = sizes.Get("hidden_size");
  shape.num_layers = sizes.Get("num_hidden_layers");
  shape.top_k = sizes.Get("num_experts_per_tok");
  shape.vocab_size = sizes.Get("vocab_size");
  shape.max_positions = sizes.Get("max_position_embeddings", 0);
  const auto tied = config->find("tie_word_embeddings");
  shape.tied_embeddings = tied != config->end() && *tied == true;
  if (deepseek) {
    ReadDeepSeek(&sizes, &shape);
  } else if (type == "mixtral") {
    ReadMixtral(&sizes, &shape);
  } else {
    ReadQwen3(&sizes, &shape);
  }
  absl::Status status = sizes.status();
  if (status.ok() && deepseek && sizes.Get("kv_lora_rank") == 0) {
    status = absl::InvalidArgumentError("config.json: kv_lora_rank is 0; it must be 1 or more");
  }
  if (status.ok()) status = CheckEveryLayerHasExperts(*config);
  if (status.ok()) status = ReadQuantization(*config, &shape);
  if (status.ok()) status = CheckShape(shape);
  if (!status.ok()) return status;
  return shape;
}

}  // namespace moe::cli
