// Where a rank's weights lie in device memory, and which copies bring them there. Pure.
//
// q, k and v are one matrix, so that one product makes all three. Rows are padded as
// kernels/cuda/matrix.h asks. Tested by tests/worker/cuda/weight_layout_test.cc.
#ifndef MOE_WORKER_CUDA_WEIGHT_LAYOUT_H_
#define MOE_WORKER_CUDA_WEIGHT_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/bf16.h"
#include "kernels/cuda/matrix.h"
#include "kernels/experts.h"
#include "worker/cuda/bump.h"
#include "worker/model/config.h"
#include "worker/model/weights.h"

namespace moe::cuda {

// H hidden, Q num_heads * head_dim, K num_kv_heads * head_dim, E num_experts, V vocab_size.
struct DeviceLayer {
  const kernels::BFloat16* input_norm = nullptr;           // [H]
  const kernels::BFloat16* post_attention_norm = nullptr;  // [H]
  const kernels::BFloat16* q_norm = nullptr;               // [Q]
  const kernels::BFloat16* k_norm = nullptr;               // [K]
  kernels::cuda::Matrix qkv;                               // [Q + 2 K, H]
  kernels::cuda::Matrix o;                                 // [H, Q]
  kernels::cuda::Matrix router;                            // [E, H]
};

// Addresses in device memory, not owned. Without attention only the experts are there.
struct DeviceWeights {
  kernels::cuda::Matrix embed;                    // [V, H]
  kernels::cuda::Matrix lm_head;                  // [V, H]; the embedding's if tied
  const kernels::BFloat16* final_norm = nullptr;  // [H]
  std::vector<DeviceLayer> layers;
  kernels::ExpertWeights* experts = nullptr;  // [num_layers, num_local_experts]
  int num_local_experts = 0;
  int gate_stride = 0;  // of gate and up, [intermediate, gate_stride]
  int down_stride = 0;  // [H, down_stride]
};

// Rows that are copied from a checkpoint's mapping.
struct WeightCopy {
  const kernels::BFloat16* from = nullptr;  // [rows, cols], host
  int64_t rows = 0;
  int64_t cols = 0;
  kernels::BFloat16* to = nullptr;  // [rows, stride], device
  int64_t stride = 0;
};

struct WeightLayout {
  DeviceWeights weights;
  std::vector<WeightCopy> copies;                    // ascending by `from`, disjoint
  std::vector<kernels::ExpertWeights> expert_table;  // what goes to weights.experts
};

// Lays out the named experts (ascending ids) and, if `attention`, all that is not an expert.
// `source` may hold null for what is not asked for.
WeightLayout LayOutWeights(const model::ModelConfig& config, const model::ModelWeights& source,
                           absl::Span<const int> experts, bool attention, Bump* memory);

// The bytes that it takes.
uint64_t WeightBytes(const model::ModelConfig& config, int num_experts, bool attention);

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_WEIGHT_LAYOUT_H_
