#include "worker/model/config.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/model/bounded_json.h"

namespace moe::model {
namespace {

using Json = nlohmann::json;

constexpr char kConfigName[] = "config.json";
constexpr char kGenerationName[] = "generation_config.json";

// Upper limits, far above any published model. They keep the product of any two sizes, in bytes,
// within an int64, and the number of tensors (layers x experts) within what fits memory.
constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr int64_t kMaxExpertInstances = int64_t{1} << 18;
constexpr size_t kMaxEosTokens = 64;

std::string Show(const Json& value) {
  if (value.is_string()) return QuoteForMessage(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return value.dump();
}

absl::Status Wrong(const std::string& file, const std::string& field, const Json& value,
                   const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": ", field, " is ", Show(value), "; it must be ", allowed));
}

absl::Status Unsupported(const std::string& field, const Json& value,
                         const std::string& supported) {
  return absl::UnimplementedError(absl::StrCat(kConfigName, ": ", field, " is ", Show(value),
                                               ", which is not supported; ", supported));
}

// The value of a field, or null if it is absent or JSON null (transformers writes both).
const Json* Find(const Json& object, const char* field) {
  const auto it = object.find(field);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

// Reads the fields of one object. The first error is kept and later reads do nothing, so a caller
// reads all fields and checks status() once.
class Fields {
 public:
  Fields(const Json& object, const char* file) : object_(object), file_(file) {}

  const absl::Status& status() const { return status_; }

  // An integer in [min, max]; `fallback` if absent, an error if there is none.
  int Integer(const char* field, int64_t min, int64_t max, std::optional<int> fallback) {
    if (!status_.ok()) return 0;
    const Json* value = Find(object_, field);
    if (value == nullptr) {
      if (fallback.has_value()) return *fallback;
      status_ = absl::InvalidArgumentError(absl::StrCat(
          file_, ": ", field, " is missing; it must be an integer from ", min, " to ", max));
      return 0;
    }
    // Values above 2^63 are unsigned in the parser, values above 2^64 are floats.
    const bool representable =
        value->is_number_integer() &&
        (!value->is_number_unsigned() ||
         value->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    const int64_t number = representable ? value->get<int64_t>() : min - 1;
    if (number < min || number > max) {
      status_ = Wrong(file_, field, *value, absl::StrCat("an integer from ", min, " to ", max));
      return 0;
    }
    return static_cast<int>(number);
  }

  bool Boolean(const char* field, bool fallback) {
    if (!status_.ok()) return fallback;
    const Json* value = Find(object_, field);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) {
      status_ = Wrong(file_, field, *value, "true or false");
      return fallback;
    }
    return value->get<bool>();
  }

  // A number in (above, max]; nothing if absent.
  std::optional<double> Positive(const char* field, double above, double max) {
    if (!status_.ok()) return std::nullopt;
    const Json* value = Find(object_, field);
    if (value == nullptr) return std::nullopt;
    const double number =
        value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(number > above && number <= max)) {
      status_ =
          Wrong(file_, field, *value, absl::StrCat("a number above ", above, " and at most ", max));
      return std::nullopt;
    }
    return number;
  }

  std::string String(const char* field) {
    if (!status_.ok()) return "";
    const Json* value = Find(object_, field);
    if (value == nullptr) return "";
    if (!value->is_string()) {
      status_ = Wrong(file_, field, *value, "a string");
      return "";
    }
    return value->get<std::string>();
  }

 private:
  const Json& object_;
  const char* const file_;
  absl::Status status_;
};

absl::Status CheckArchitecture(const Json& json) {
  constexpr char kSupported[] =
      "the supported model is OLMoE (model_type \"olmoe\", architecture \"OlmoeForCausalLM\")";
  if (Find(json, "auto_map") != nullptr) {
    return absl::UnimplementedError(absl::StrCat(
        kConfigName,
        ": auto_map is set: the model brings its own Python code, which is never run; ",
        kSupported));
  }
  const Json* type = Find(json, "model_type");
  const Json* architectures = Find(json, "architectures");
  if (type == nullptr && architectures == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(kConfigName, ": model_type and architectures are missing; ", kSupported));
  }
  if (type != nullptr && *type != "olmoe") return Unsupported("model_type", *type, kSupported);
  if (architectures == nullptr) return absl::OkStatus();
  if (!architectures->is_array() || architectures->size() != 1) {
    return Wrong(kConfigName, "architectures", *architectures, "an array of one name");
  }
  if (architectures->front() != "OlmoeForCausalLM") {
    return Unsupported("architectures[0]", architectures->front(), kSupported);
  }
  return absl::OkStatus();
}

// What another model of the family might set and this engine would compute wrongly.
absl::Status CheckFeatures(const Json& json) {
  if (const Json* act = Find(json, "hidden_act"); act != nullptr && *act != "silu") {
    return Unsupported("hidden_act", *act, "the supported activation is \"silu\"");
  }
  if (const Json* bias = Find(json, "attention_bias"); bias != nullptr && *bias != false) {
    return Unsupported("attention_bias", *bias, "attention has no biases here: it must be false");
  }
  if (const Json* quantization = Find(json, "quantization_config"); quantization != nullptr) {
    return Unsupported("quantization_config", *quantization,
                       "weights must be bfloat16, float16 or float32");
  }
  if (const Json* window = Find(json, "sliding_window"); window != nullptr) {
    return Unsupported("sliding_window", *window, "attention is over all positions here");
  }
  return absl::OkStatus();
}

// Both forms: rope_theta beside rope_scaling (transformers 4), rope_parameters (transformers 5).
absl::Status ReadRope(const Json& json, ModelConfig* config) {
  constexpr double kMaxTheta = 1e12;
  constexpr char kSupported[] = "the supported rope_type is \"default\"";
  if (const Json* scaling = Find(json, "rope_scaling"); scaling != nullptr) {
    if (!scaling->is_object()) return Wrong(kConfigName, "rope_scaling", *scaling, "null");
    const Json* type = Find(*scaling, "rope_type");
    if (type == nullptr) type = Find(*scaling, "type");
    return Unsupported(type == nullptr ? "rope_scaling" : "rope_scaling.rope_type",
                       type == nullptr ? *scaling : *type, "rope_scaling must be null");
  }
  if (const Json* partial = Find(json, "partial_rotary_factor");
      partial != nullptr && *partial != 1.0) {
    return Unsupported("partial_rotary_factor", *partial, "it must be 1");
  }
  Fields top(json, kConfigName);
  std::optional<double> theta = top.Positive("rope_theta", 0, kMaxTheta);
  if (!top.status().ok()) return top.status();
  if (const Json* parameters = Find(json, "rope_parameters"); parameters != nullptr) {
    if (!parameters->is_object()) {
      return Wrong(kConfigName, "rope_parameters", *parameters, "an object");
    }
    for (const auto& [key, value] : parameters->items()) {
      if (value.is_null() || key == "rope_theta") continue;
      if (key == "rope_type" || key == "type") {
        if (value != "default") {
          return Unsupported(absl::StrCat("rope_parameters.", key), value, kSupported);
        }
      } else if (key != "partial_rotary_factor" || value != 1.0) {
        return Unsupported(absl::StrCat("rope_parameters.", key), value, kSupported);
      }
    }
    Fields fields(*parameters, kConfigName);
    const std::optional<double> nested = fields.Positive("rope_theta", 0, kMaxTheta);
    if (!fields.status().ok()) return fields.status();
    if (nested.has_value()) theta = nested;
  }
  if (theta.has_value()) config->rope_theta = *theta;
  return absl::OkStatus();
}

// A token id, or a list of them, into `ids`. An id that the model cannot produce is dropped with a
// warning: transformers loads such files and never meets the id.
absl::Status ReadTokenIds(const char* file, const char* field, const Json& value,
                          ModelConfig* config, std::vector<int32_t>* ids) {
  constexpr char kAllowed[] = "an integer or an array of at most 64 integers";
  const bool is_list = value.is_array();
  if (is_list && value.size() > kMaxEosTokens) return Wrong(file, field, value, kAllowed);
  const size_t count = is_list ? value.size() : 1;
  for (size_t i = 0; i < count; ++i) {
    const Json& item = is_list ? value[i] : value;
    if (!item.is_number_integer()) return Wrong(file, field, item, kAllowed);
    const bool fits = item.is_number_unsigned()
                          ? item.get<uint64_t>() < static_cast<uint64_t>(config->vocab_size)
                          : item.get<int64_t>() >= 0 && item.get<int64_t>() < config->vocab_size;
    if (fits) {
      ids->push_back(item.get<int32_t>());
    } else {
      config->warnings.push_back(absl::StrCat(file, ": ", field, " ", item.dump(),
                                              " is outside the vocabulary of ", config->vocab_size,
                                              " tokens and is ignored"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadSpecialTokens(const Json& json, const Json& generation, ModelConfig* config) {
  const Json* eos = Find(generation, "eos_token_id");
  const char* const eos_file = eos == nullptr ? kConfigName : kGenerationName;
  if (eos == nullptr) eos = Find(json, "eos_token_id");
  if (eos != nullptr) {
    absl::Status status =
        ReadTokenIds(eos_file, "eos_token_id", *eos, config, &config->eos_token_ids);
    if (!status.ok()) return status;
  }
  struct Single {
    const char* field;
    std::optional<int32_t>* id;
  };
  for (const Single& single : {Single{"bos_token_id", &config->bos_token_id},
                               Single{"pad_token_id", &config->pad_token_id}}) {
    const Json* value = Find(json, single.field);
    if (value == nullptr || *value == -1) continue;  // -1: none, in older files
    if (value->is_array()) return Wrong(kConfigName, single.field, *value, "an integer");
    std::vector<int32_t> ids;
    absl::Status status = ReadTokenIds(kConfigName, single.field, *value, config, &ids);
    if (!status.ok()) return status;
    if (!ids.empty()) *single.id = ids.front();
  }
  return absl::OkStatus();
}

absl::Status CheckShapes(const Json& json, ModelConfig* config) {
  if (config->hidden % config->num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        kConfigName, ": hidden_size is ", config->hidden,
        "; it must be a multiple of num_attention_heads, which is ", config->num_heads));
  }
  config->head_dim = config->hidden / config->num_heads;
  if (const Json* head_dim = Find(json, "head_dim");
      head_dim != nullptr && *head_dim != config->head_dim) {
    return Wrong(kConfigName, "head_dim", *head_dim,
                 absl::StrCat("hidden_size / num_attention_heads = ", config->head_dim,
                              " (the q_norm weight spans exactly hidden_size)"));
  }
  if (config->head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kConfigName, ": hidden_size / num_attention_heads is ", config->head_dim,
                     "; it must be even, since rotary embedding works on pairs"));
  }
  if (config->num_heads % config->num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(kConfigName, ": num_key_value_heads is ", config->num_kv_heads,
                     "; it must divide num_attention_heads, which is ", config->num_heads));
  }
  if (config->top_k > config->num_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat(kConfigName, ": num_experts_per_tok is ", config->top_k,
                     "; it must be at most num_experts, which is ", config->num_experts));
  }
  if (int64_t{config->num_layers} * config->num_experts > kMaxExpertInstances) {
    return absl::InvalidArgumentError(absl::StrCat(
        kConfigName, ": num_hidden_layers * num_experts is ", config->num_layers, " * ",
        config->num_experts, "; the product must be at most ", kMaxExpertInstances));
  }
  return absl::OkStatus();
}

absl::Status ReadConfig(const Json& json, const Json& generation, ModelConfig* config) {
  for (absl::Status status : {CheckArchitecture(json), CheckFeatures(json)}) {
    if (!status.ok()) return status;
  }
  Fields fields(json, kConfigName);
  config->hidden = fields.Integer("hidden_size", 1, kMaxHidden, std::nullopt);
  config->intermediate = fields.Integer("intermediate_size", 1, kMaxIntermediate, std::nullopt);
  config->num_layers = fields.Integer("num_hidden_layers", 1, kMaxLayers, std::nullopt);
  config->num_heads = fields.Integer("num_attention_heads", 1, kMaxHeads, std::nullopt);
  config->num_kv_heads = fields.Integer("num_key_value_heads", 1, kMaxHeads, config->num_heads);
  config->num_experts = fields.Integer("num_experts", 1, kMaxExperts, std::nullopt);
  config->top_k = fields.Integer("num_experts_per_tok", 1, kMaxExperts, std::nullopt);
  config->vocab_size = fields.Integer("vocab_size", 1, kMaxVocab, std::nullopt);
  config->max_positions = fields.Integer("max_position_embeddings", 1, kMaxPositions, 4096);
  config->rms_norm_epsilon =
      static_cast<float>(fields.Positive("rms_norm_eps", 0, 1).value_or(1e-5));
  const std::optional<double> clip =
      fields.Positive("clip_qkv", 0, std::numeric_limits<float>::max());
  if (clip.has_value()) config->clip_qkv = static_cast<float>(*clip);
  config->norm_topk_prob = fields.Boolean("norm_topk_prob", false);
  config->tie_word_embeddings = fields.Boolean("tie_word_embeddings", false);
  config->dtype = fields.String("dtype");
  if (config->dtype.empty()) config->dtype = fields.String("torch_dtype");
  if (!fields.status().ok()) return fields.status();
  for (absl::Status status : {CheckShapes(json, config), ReadRope(json, config),
                              ReadSpecialTokens(json, generation, config)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json) {
  absl::StatusOr<Json> json = ParseJsonObject(config_json, kConfigName);
  if (!json.ok()) return json.status();
  absl::StatusOr<Json> generation = Json::object();
  if (!generation_config_json.empty()) {
    generation = ParseJsonObject(generation_config_json, kGenerationName);
    if (!generation.ok()) return generation.status();
  }
  ModelConfig config;
  absl::Status status = ReadConfig(*json, *generation, &config);
  if (!status.ok()) return status;
  return config;
}

std::string Describe(const ModelConfig& config) {
  std::string text =
      absl::StrCat("olmoe: ", config.num_layers, " layers, hidden ", config.hidden, ", ",
                   config.num_heads, " heads (", config.num_kv_heads, " kv) of ", config.head_dim,
                   ", ", config.num_experts, " experts of ", config.intermediate, ", top-",
                   config.top_k, ", vocabulary ", config.vocab_size, ", ", config.max_positions,
                   " positions, rope theta ", config.rope_theta, ", eps ", config.rms_norm_epsilon);
  if (config.clip_qkv.has_value()) absl::StrAppend(&text, ", clip_qkv ", *config.clip_qkv);
  if (config.norm_topk_prob) absl::StrAppend(&text, ", normalised top-k");
  if (config.tie_word_embeddings) absl::StrAppend(&text, ", tied embeddings");
  if (!config.eos_token_ids.empty()) {
    absl::StrAppend(&text, ", eos ", absl::StrJoin(config.eos_token_ids, "/"));
  }
  if (!config.dtype.empty()) absl::StrAppend(&text, ", ", config.dtype);
  return text;
}

}  // namespace moe::model
