// Which tensors an OLMoE model has, and whether a checkpoint's tensors are those. Pure.
//
// Names and shapes are those of transformers' modeling_olmoe.py. Experts are stored one by one
// (experts.E.gate_proj, up_proj, down_proj) or, as transformers 5 holds them, fused per layer:
// experts.gate_up_proj [E, 2 I, H], where rows [0, I) of an expert are gate and [I, 2 I) are up,
// and experts.down_proj [E, H, I]. Each layer may be stored either way.
//
// Tested by tests/worker/model/checkpoint_test.cc.
#ifndef MOE_WORKER_MODEL_TENSOR_LAYOUT_H_
#define MOE_WORKER_MODEL_TENSOR_LAYOUT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/model/safetensors.h"

namespace moe::model {

enum class TensorRole {
  kEmbed,
  kFinalNorm,
  kLmHead,
  // Of a layer.
  kInputNorm,
  kPostAttentionNorm,
  kQ,
  kK,
  kV,
  kO,
  kQNorm,
  kKNorm,
  kRouter,
  // Of one expert of a layer.
  kExpertGate,
  kExpertUp,
  kExpertDown,
  // Of all experts of a layer.
  kFusedGateUp,
  kFusedDown,
};

// One tensor that the model uses.
struct ModelTensor {
  TensorRole role = TensorRole::kEmbed;
  int layer = -1;
  int expert = -1;
  std::string name;
  TensorInfo info;   // shape checked; dtype bf16, fp16 or fp32
  int file_idx = 0;  // into the list of files given to MatchTensors

  // Not bf16, or at an odd offset, as writers before safetensors 0.3 could leave it.
  bool NeedsConversion() const {
    return info.dtype != DType::kBF16 || info.begin % sizeof(uint16_t) != 0;
  }
};

struct TensorLayout {
  std::vector<ModelTensor> tensors;
  std::vector<std::string> warnings;
};

// A tensor as found in a file.
struct StoredTensor {
  const TensorInfo* info = nullptr;
  int file_idx = 0;
};
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

// Finds each tensor of the model among `stored`. `files` are the files' names, for messages.
// InvalidArgument if one is missing, has another shape, or is stored in both layouts, or if there
// are experts or layers beyond the config's; Unimplemented for a dtype that cannot become bf16.
// Other tensors that the model does not use give one warning.
absl::StatusOr<TensorLayout> MatchTensors(const ModelConfig& config, const StoredTensors& stored,
                                          const std::vector<std::string>& files);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_TENSOR_LAYOUT_H_
