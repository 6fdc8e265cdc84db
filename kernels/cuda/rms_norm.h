// Root-mean-square normalisation on the GPU. The CPU's is kernels/rms_norm.h, with the formula.
// Tested by tests/kernels/cuda/rms_norm_test.cc.
#ifndef MOE_KERNELS_CUDA_RMS_NORM_H_
#define MOE_KERNELS_CUDA_RMS_NORM_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/bf16.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

// out[t] = bf16(norm(x[row_idxs[t]])); the sum of squares has one order for each `hidden`.
//   x         [any, hidden] fp32
//   row_idxs  [num_rows], or nullptr: row t itself
//   weight    [hidden] bf16
//   out       [num_rows, out_stride] bf16, the first `hidden` of each row are written
absl::Status RmsNorm(const Gpu& gpu, const float* x, const int32_t* row_idxs,
                     const BFloat16* weight, float epsilon, int num_rows, int hidden, BFloat16* out,
                     int out_stride);

// The same in place, fp32 out.
//   x  [num_rows, row_stride] fp32, of which the first `hidden` of each row are normalised
absl::Status RmsNormInPlace(const Gpu& gpu, float* x, int row_stride, const BFloat16* weight,
                            float epsilon, int num_rows, int hidden);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_RMS_NORM_H_
