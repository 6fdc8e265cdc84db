// Causal attention over a paged KV cache on the GPU. The CPU's is kernels/attention.h; the cache
// has the same form.
//
// Keys and values are on the M side of mma.m16n8k16, queries on its N side; q and the weights of a
// split are rounded to bf16. For a row at position p and each of its heads, with the keys of split
// j (kSplitKeys of them) up to p:
//   s[t] = (q . k[t]) * scale * log2(e)      one chain of MMAs along head_dim
//   m_j = max s;  e[t] = bf16(exp2(s[t] - m_j));  l_j = sum of e;  o_j = sum of e[t] v[t]
// and over the splits in ascending order, from M = -inf, L = 0, O = 0:
//   M' = max(M, m_j);  a = exp2(M - M');  b = exp2(m_j - M')
//   L' = fma(l_j, b, L a);  O' = fma(o_j, b, O a)
// out = bf16(O / L). Whether one block runs all splits or many blocks one each, the operations are
// the same, so a row's bits depend on its q and on the keys up to p alone. One exception: an
// infinite or NaN v[t] can make NaN of the up to 7 rows before t that share its warp, whose weight
// for it is 0.
//
// Tested by tests/kernels/cuda/attention_test.cc.
#ifndef MOE_KERNELS_CUDA_ATTENTION_H_
#define MOE_KERNELS_CUDA_ATTENTION_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

inline constexpr int kMaxHeadDim = 128;

// Rounds rows to bf16 and stores them in their slots (AttentionPlan::slots).
//   k, v   [num_rows, row_stride] fp32, the first num_kv_heads * head_dim of each row are stored
//   slots  [num_rows]
absl::Status StoreKv(const Gpu& gpu, const float* k, const float* v, int row_stride,
                     const int32_t* slots, int num_rows, const KvLayerView& cache);

// All pointers are to device memory.
struct AttentionArgs {
  const float* q = nullptr;  // [num_rows, q_stride] fp32
  int q_stride = 0;
  int num_heads = 0;
  float scale = 0.0f;
  KvLayerView cache;  // blocks 16-byte aligned
  // The plan of the step.
  const DeviceSlice* slices = nullptr;
  const int32_t* block_table = nullptr;
  const AttentionUnit* narrow = nullptr;
  const AttentionUnit* wide = nullptr;
  const AttentionMerge* merges = nullptr;
  int num_narrow = 0;
  int num_wide = 0;
  int num_merges = 0;
  // Workspace for plan.num_partials * num_heads partial results: [.., head_dim], and [.., 2] for
  // the maximum and the sum.
  float* partial_outputs = nullptr;
  float* partial_sums = nullptr;
  BFloat16* out = nullptr;  // [num_rows, num_heads * head_dim]
};

// Enqueued in gpu.stream. InvalidArgument for a head_dim that is not a multiple of 8 up to
// kMaxHeadDim and for a cache that is not aligned.
absl::Status PagedAttention(const Gpu& gpu, const AttentionArgs& args);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_ATTENTION_H_
