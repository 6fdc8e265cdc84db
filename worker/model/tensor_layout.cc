#include "worker/model/tensor_layout.h"

#include <charconv>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "worker/model/bounded_json.h"

namespace moe::model {
namespace {

constexpr char kLayers[] = "model.layers.";
constexpr char kLmHead[] = "lm_head.weight";

std::string LayerPrefix(int layer) { return absl::StrCat(kLayers, layer, "."); }
std::string FusedGateUpName(int layer) {
  return absl::StrCat(LayerPrefix(layer), "mlp.experts.gate_up_proj");
}

ModelTensor Make(TensorRole role, int layer, int expert, std::string name,
                 std::vector<int64_t> shape) {
  ModelTensor tensor;
  tensor.role = role;
  tensor.layer = layer;
  tensor.expert = expert;
  tensor.name = std::move(name);
  tensor.info.shape = std::move(shape);
  return tensor;
}

void AddLayer(const ModelConfig& config, int layer, bool fused, std::vector<ModelTensor>* out) {
  const int64_t h = config.hidden;
  const int64_t i = config.intermediate;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t e = config.num_experts;
  const std::string prefix = LayerPrefix(layer);
  const auto add = [&](TensorRole role, const char* name, std::vector<int64_t> shape) {
    out->push_back(Make(role, layer, -1, prefix + name, std::move(shape)));
  };
  add(TensorRole::kInputNorm, "input_layernorm.weight", {h});
  add(TensorRole::kPostAttentionNorm, "post_attention_layernorm.weight", {h});
  add(TensorRole::kQ, "self_attn.q_proj.weight", {q, h});
  add(TensorRole::kK, "self_attn.k_proj.weight", {kv, h});
  add(TensorRole::kV, "self_attn.v_proj.weight", {kv, h});
  add(TensorRole::kO, "self_attn.o_proj.weight", {h, q});
  add(TensorRole::kQNorm, "self_attn.q_norm.weight", {q});
  add(TensorRole::kKNorm, "self_attn.k_norm.weight", {kv});
  add(TensorRole::kRouter, "mlp.gate.weight", {e, h});
  if (fused) {
    add(TensorRole::kFusedGateUp, "mlp.experts.gate_up_proj", {e, 2 * i, h});
    add(TensorRole::kFusedDown, "mlp.experts.down_proj", {e, h, i});
    return;
  }
  for (int expert = 0; expert < config.num_experts; ++expert) {
    const std::string experts = absl::StrCat(prefix, "mlp.experts.", expert, ".");
    out->push_back(
        Make(TensorRole::kExpertGate, layer, expert, experts + "gate_proj.weight", {i, h}));
    out->push_back(Make(TensorRole::kExpertUp, layer, expert, experts + "up_proj.weight", {i, h}));
    out->push_back(
        Make(TensorRole::kExpertDown, layer, expert, experts + "down_proj.weight", {h, i}));
  }
}

std::vector<ModelTensor> ExpectedTensors(const ModelConfig& config, const StoredTensors& stored) {
  std::vector<ModelTensor> out;
  out.push_back(Make(TensorRole::kEmbed, -1, -1, "model.embed_tokens.weight",
                     {config.vocab_size, config.hidden}));
  for (int layer = 0; layer < config.num_layers; ++layer) {
    AddLayer(config, layer, stored.contains(FusedGateUpName(layer)), &out);
  }
  out.push_back(Make(TensorRole::kFinalNorm, -1, -1, "model.norm.weight", {config.hidden}));
  // A tied head is not stored as a rule. Where it is, it is used as stored: if it is a copy this
  // changes nothing, and if it differs then transformers does not tie it, either.
  if (!config.tie_word_embeddings || stored.contains(kLmHead)) {
    out.push_back(Make(TensorRole::kLmHead, -1, -1, kLmHead, {config.vocab_size, config.hidden}));
  }
  return out;
}

// The number after `prefix` in `name`, or -1.
int64_t NumberAfter(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return -1;
  name.remove_prefix(prefix.size());
  int64_t number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool is_component = error == std::errc() && end != name.data() + name.size() && *end == '.';
  return is_component ? number : -1;
}

// A tensor that the config has no use for. Experts, layers and second layouts contradict the
// config.
absl::Status CheckUnused(const ModelConfig& config, const std::string& name,
                         const std::string& file) {
  const auto error = [&](const std::string& message) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor ", QuoteForMessage(name), " ", message));
  };
  const int64_t layer = NumberAfter(name, kLayers);
  if (layer < 0) return absl::OkStatus();
  if (layer >= config.num_layers) {
    return error(absl::StrCat("is of layer ", layer, ", but config.json has num_hidden_layers ",
                              config.num_layers));
  }
  const std::string experts = absl::StrCat(kLayers, layer, ".mlp.experts.");
  const int64_t expert = NumberAfter(name, experts);
  if (expert >= config.num_experts) {
    return error(absl::StrCat("is of expert ", expert, ", but config.json has num_experts ",
                              config.num_experts));
  }
  if (std::string_view(name).starts_with(experts)) {
    return error("holds experts that are stored in the other layout, too");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TensorLayout> MatchTensors(const ModelConfig& config, const StoredTensors& stored,
                                          const std::vector<std::string>& files) {
  TensorLayout layout;
  layout.tensors = ExpectedTensors(config, stored);
  std::vector<std::string> missing;
  std::set<std::string_view> used;
  for (ModelTensor& tensor : layout.tensors) {
    used.insert(tensor.name);
    const auto it = stored.find(tensor.name);
    if (it == stored.end()) {
      missing.push_back(tensor.name);
      continue;
    }
    const TensorInfo& info = *it->second.info;
    const std::string where = absl::StrCat(files[static_cast<size_t>(it->second.file_idx)],
                                           ": tensor ", QuoteForMessage(tensor.name), " ");
    if (info.shape != tensor.info.shape) {
      return absl::InvalidArgumentError(absl::StrCat(where, "has shape ", ShapeToString(info.shape),
                                                     "; by config.json it must be ",
                                                     ShapeToString(tensor.info.shape)));
    }
    if (info.dtype != DType::kBF16 && info.dtype != DType::kF16 && info.dtype != DType::kF32) {
      return absl::UnimplementedError(
          absl::StrCat(where, "has dtype ", std::string(DTypeName(info.dtype)),
                       ", which is not supported; weights must be BF16, F16 or F32"));
    }
    tensor.info = info;
    tensor.file_idx = it->second.file_idx;
  }
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : stored) {
    if (used.contains(name)) continue;
    absl::Status status = CheckUnused(config, name, files[static_cast<size_t>(tensor.file_idx)]);
    if (!status.ok()) return status;
    unused.push_back(QuoteForMessage(name));
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        files.empty() ? "model" : files.front(), ": tensor ", QuoteForMessage(missing.front()),
        " is missing",
        missing.size() == 1 ? "" : absl::StrCat(", and ", missing.size() - 1, " more"),
        files.size() > 1 ? absl::StrCat(" (looked in ", files.size(), " files)") : ""));
  }
  if (!unused.empty()) {
    constexpr size_t kMaxNamed = 5;
    const size_t num_unused = unused.size();
    unused.resize(std::min(num_unused, kMaxNamed));
    layout.warnings.push_back(absl::StrCat(num_unused,
                                           " tensors are not used: ", absl::StrJoin(unused, ", "),
                                           num_unused > kMaxNamed ? ", ..." : ""));
  }
  return layout;
}

}  // namespace moe::model
