// What comes between the projection of q, k, v and attention, in one kernel: at one row a launch
// takes as long as its work. Tested by tests/kernels/cuda/qkv_test.cc.
#ifndef MOE_KERNELS_CUDA_QKV_H_
#define MOE_KERNELS_CUDA_QKV_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/rows.h"

namespace moe::kernels::cuda {

// All pointers are to device memory.
struct QkvArgs {
  float* qkv =
      nullptr;  // [num_rows, stride]: num_heads heads of q, num_kv_heads of k, as many of v
  int stride = 0;
  int num_rows = 0;
  int num_heads = 0;
  // Norms over the whole projection, [num_heads * head_dim] and [num_kv_heads * head_dim].
  const BFloat16* q_norm = nullptr;
  const BFloat16* k_norm = nullptr;
  float epsilon = 0.0f;
  float clip = 0.0f;  // limit of q, k and v; 0: none
  RopeTableView rope;
  const int32_t* positions = nullptr;  // [num_rows]
  const int32_t* slots = nullptr;      // [num_rows], AttentionPlan::slots
  KvLayerView cache;
};

// q becomes what attention reads, k and v go to the cache (in qkv they stay as they are), with the
// bits of RmsNormInPlace, Clip, ApplyRope and StoreKv one after the other.
absl::Status FinishQkv(const Gpu& gpu, const QkvArgs& args);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_QKV_H_
