#include "tests/worker/model/checkpoint_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "kernels/bf16.h"

namespace moe::model {
namespace {

using Json = nlohmann::json;

// SplitMix64 (Steele, Lea and Flood 2014): the same numbers on every machine, unlike
// std::normal_distribution.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  // Mean 0, variance 1: the sum of four uniform numbers, scaled. No library function whose last bit
  // could differ between machines.
  float Normal() {
    const uint64_t bits = Next();
    float sum = 0;
    for (int i = 0; i < 4; ++i) {
      sum += static_cast<float>((bits >> (16 * i)) & 0xffff) * (1.0F / 65536.0F) - 0.5F;
    }
    return sum * 1.7320508F;
  }

 private:
  uint64_t state_;
};

// A bf16 value as fp16. Rounds to nearest; below the normal range of fp16 it becomes zero.
uint16_t ToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const int exponent = static_cast<int>((bits >> 23) & 0xffU) - 127 + 15;
  if (exponent <= 0) return static_cast<uint16_t>(sign);
  if (exponent >= 31) return static_cast<uint16_t>(sign | 0x7c00U);
  // The 8 significant bits of bf16 fit the 11 of fp16.
  return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent) << 10) |
                               ((bits & 0x7fffffU) >> 13));
}

void Append(float value, DType dtype, std::string* data) {
  const kernels::BFloat16 rounded = kernels::ToBFloat16(value);
  const float exact = kernels::ToFloat(rounded);
  char bytes[4];
  switch (dtype) {
    case DType::kF32:
      std::memcpy(bytes, &exact, 4);
      data->append(bytes, 4);
      return;
    case DType::kF16: {
      const uint16_t half = ToHalf(exact);
      std::memcpy(bytes, &half, 2);
      data->append(bytes, 2);
      return;
    }
    default:
      std::memcpy(bytes, &rounded, 2);
      data->append(bytes, 2);
  }
}

// FNV-1a: each tensor has its own stream, so that one tensor's values do not depend on which others
// are stored, nor on the layout.
uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

// A tensor and where its values come from: the streams of `parts`, one after the other, in equal
// shares.
struct RandomTensor {
  NamedTensor tensor;
  std::vector<std::string> parts;
  float mean = 0;
};

uint64_t NumBytes(const NamedTensor& tensor) {
  auto num_bytes = static_cast<uint64_t>(DTypeBytes(tensor.dtype));
  for (const int64_t dimension : tensor.shape) num_bytes *= static_cast<uint64_t>(dimension);
  return num_bytes;
}

std::string MakeData(const RandomTensor& random, uint64_t seed, float init_std) {
  const DType dtype = random.tensor.dtype;
  const uint64_t num_bytes = NumBytes(random.tensor);
  const uint64_t num_elements = num_bytes / static_cast<uint64_t>(DTypeBytes(dtype));
  std::string data;
  data.reserve(num_bytes);
  for (const std::string& part : random.parts) {
    Random values(seed ^ HashName(part));
    for (uint64_t i = 0; i < num_elements / random.parts.size(); ++i) {
      Append(random.mean + values.Normal() * init_std, dtype, &data);
    }
  }
  return data;
}

// All tensors of a model, in the order in which they are written.
std::vector<RandomTensor> ListTensors(const ModelConfig& config, const WriteOptions& options) {
  const int64_t h = config.hidden;
  const int64_t inner = config.intermediate;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  std::vector<RandomTensor> tensors;
  const auto add_joined = [&](const std::string& name, std::vector<int64_t> shape,
                              std::vector<std::string> parts, float mean) {
    tensors.push_back({{name, options.dtype, std::move(shape)}, std::move(parts), mean});
  };
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float mean = 0) {
    add_joined(name, std::move(shape), {name}, mean);
  };
  add("model.embed_tokens.weight", {config.vocab_size, h});
  for (int l = 0; l < config.num_layers; ++l) {
    const std::string layer = absl::StrCat("model.layers.", l, ".");
    add(layer + "input_layernorm.weight", {h}, 1);
    add(layer + "post_attention_layernorm.weight", {h}, 1);
    add(layer + "self_attn.q_proj.weight", {q, h});
    add(layer + "self_attn.k_proj.weight", {kv, h});
    add(layer + "self_attn.v_proj.weight", {kv, h});
    add(layer + "self_attn.o_proj.weight", {h, q});
    add(layer + "self_attn.q_norm.weight", {q}, 1);
    add(layer + "self_attn.k_norm.weight", {kv}, 1);
    add(layer + "mlp.gate.weight", {config.num_experts, h});
    std::vector<std::string> gate_up;
    std::vector<std::string> down;
    for (int e = 0; e < config.num_experts; ++e) {
      const std::string expert = absl::StrCat(layer, "mlp.experts.", e, ".");
      gate_up.push_back(expert + "gate_proj.weight");
      gate_up.push_back(expert + "up_proj.weight");
      down.push_back(expert + "down_proj.weight");
      if (options.fused_experts) continue;
      add(expert + "gate_proj.weight", {inner, h});
      add(expert + "up_proj.weight", {inner, h});
      add(expert + "down_proj.weight", {h, inner});
    }
    if (!options.fused_experts) continue;
    add_joined(layer + "mlp.experts.gate_up_proj", {config.num_experts, 2 * inner, h}, gate_up, 0);
    add_joined(layer + "mlp.experts.down_proj", {config.num_experts, h, inner}, down, 0);
  }
  add("model.norm.weight", {h}, 1);
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, h});
  return tensors;
}

// One safetensors file. Holds one tensor at a time, so a model larger than memory can be written.
absl::Status StreamSafetensors(const std::string& path, absl::Span<const RandomTensor> tensors,
                               uint64_t seed, float init_std) {
  std::vector<NamedTensor> names;
  for (const RandomTensor& tensor : tensors) names.push_back(tensor.tensor);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << MakeSafetensorsHeader(names, {{"format", "pt"}});
  for (const RandomTensor& tensor : tensors) file << MakeData(tensor, seed, init_std);
  file.close();
  if (!file) return absl::InternalError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace

ModelConfig TinyConfig() {
  ModelConfig config;
  config.hidden = 32;
  config.intermediate = 24;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.num_experts = 8;
  config.top_k = 2;
  config.vocab_size = 100;
  config.max_positions = 256;
  config.eos_token_ids = {1};
  config.dtype = "bfloat16";
  return config;
}

std::string ConfigJson(const ModelConfig& config, const WriteOptions& options) {
  const std::string dtype = options.dtype == DType::kF32   ? "float32"
                            : options.dtype == DType::kF16 ? "float16"
                                                           : "bfloat16";
  Json json = {
      {"architectures", {"OlmoeForCausalLM"}},
      {"model_type", "olmoe"},
      {"attention_bias", false},
      {"hidden_act", "silu"},
      {"hidden_size", config.hidden},
      {"intermediate_size", config.intermediate},
      {"num_hidden_layers", config.num_layers},
      {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads},
      {"num_experts", config.num_experts},
      {"num_experts_per_tok", config.top_k},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.max_positions},
      // Printed with the digits of a float, so that parsing gives the same float back.
      {"rms_norm_eps", std::stod(absl::StrFormat("%.9g", config.rms_norm_epsilon))},
      {"norm_topk_prob", config.norm_topk_prob},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"clip_qkv", nullptr},
      {"eos_token_id", nullptr},
  };
  if (config.clip_qkv.has_value()) json["clip_qkv"] = *config.clip_qkv;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids.front();
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  if (config.bos_token_id.has_value()) json["bos_token_id"] = *config.bos_token_id;
  if (config.pad_token_id.has_value()) json["pad_token_id"] = *config.pad_token_id;
  if (options.transformers5) {
    json["dtype"] = dtype;
    json["rope_parameters"] = {{"rope_theta", config.rope_theta}, {"rope_type", "default"}};
  } else {
    json["torch_dtype"] = dtype;
    json["rope_theta"] = config.rope_theta;
    json["rope_scaling"] = nullptr;
  }
  return json.dump(2) + "\n";
}

std::vector<TensorBytes> RandomTensors(const ModelConfig& config, uint64_t seed,
                                       const WriteOptions& options) {
  std::vector<TensorBytes> out;
  for (const RandomTensor& tensor : ListTensors(config, options)) {
    out.push_back({tensor.tensor, MakeData(tensor, seed, options.init_std)});
  }
  return out;
}

absl::Status WriteFile(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  if (!file) return absl::InternalError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const std::string& data) {
  return WriteFile(path, MakeSafetensorsHeader(tensors, {{"format", "pt"}}) + data);
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorBytes>& tensors) {
  std::vector<NamedTensor> names;
  std::string data;
  for (const TensorBytes& tensor : tensors) {
    names.push_back(tensor.tensor);
    data += tensor.data;
  }
  return WriteSafetensors(path, names, data);
}

absl::Status WriteRandomCheckpoint(const std::string& dir, const ModelConfig& config, uint64_t seed,
                                   const WriteOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return absl::InternalError(absl::StrCat("cannot create ", dir));
  absl::Status status = WriteFile(dir + "/config.json", ConfigJson(config, options));
  if (!status.ok()) return status;
  const std::vector<RandomTensor> tensors = ListTensors(config, options);
  if (options.num_shards <= 1) {
    return StreamSafetensors(dir + "/model.safetensors", tensors, seed, options.init_std);
  }

  Json weight_map = Json::object();
  uint64_t total = 0;
  const auto num_shards = static_cast<size_t>(options.num_shards);
  const size_t per_shard = (tensors.size() + num_shards - 1) / num_shards;
  for (size_t s = 0; s < num_shards; ++s) {
    const std::string file =
        absl::StrFormat("model-%05d-of-%05d.safetensors", s + 1, options.num_shards);
    const auto shard =
        absl::MakeConstSpan(tensors).subspan(std::min(tensors.size(), s * per_shard), per_shard);
    status = StreamSafetensors(absl::StrCat(dir, "/", file), shard, seed, options.init_std);
    if (!status.ok()) return status;
    for (const RandomTensor& tensor : shard) {
      weight_map[tensor.tensor.name] = file;
      total += NumBytes(tensor.tensor);
    }
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  return WriteFile(dir + "/model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace moe::model
