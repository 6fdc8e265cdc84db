// The element-wise operations of a step on the GPU: embedding, clip, RoPE.
// Tested by tests/kernels/cuda/rows_test.cc.
#ifndef MOE_KERNELS_CUDA_ROWS_H_
#define MOE_KERNELS_CUDA_ROWS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/bf16.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

// out[t] = the row `tokens[t]` of the embedding, widened. REQUIRES: tokens are in the vocabulary.
//   embedding  [vocab_size, stride] bf16
//   out        [num_rows, hidden] fp32
absl::Status LookUpEmbedding(const Gpu& gpu, const BFloat16* embedding, int stride,
                             const int32_t* tokens, int num_rows, int hidden, float* out);

// x = min(max(x, -limit), limit); a NaN stays.   x [size] fp32
absl::Status Clip(const Gpu& gpu, float* x, int64_t size, float limit);

// The values of kernels::RopeTable in device memory, [max_positions, head_dim / 2] fp32 each.
struct RopeTableView {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int head_dim = 0;
};

// Rotates each head of each row in place, with the formula of kernels/rope.h and its bits.
//   x          [num_rows, row_stride] fp32, the first num_heads * head_dim of each row are rotated
//   positions  [num_rows], each one that the table has
absl::Status ApplyRope(const Gpu& gpu, const RopeTableView& table, const int32_t* positions,
                       int num_rows, int num_heads, float* x, int row_stride);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_ROWS_H_
