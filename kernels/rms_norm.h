// Root-mean-square normalisation (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467).
#ifndef MOE_KERNELS_RMS_NORM_H_
#define MOE_KERNELS_RMS_NORM_H_

#include "kernels/bf16.h"
#include "kernels/context.h"

namespace moe::kernels {

// out[t][i] = bf16(x[t][i] * (1 / sqrt(Sum_i(x^2) / hidden + epsilon)) * weight[i])
//   x       [num_rows, hidden] fp32
//   weight  [hidden] bf16
//   out     [num_rows, hidden] bf16
void RmsNorm(const Context& context, const float* x, const BFloat16* weight, float epsilon,
             int num_rows, int hidden, BFloat16* out);

// The same in place, fp32 out: for the q and k projections, whose rows go on to RoPE.
//   x       [num_rows, row_stride] fp32, of which the first `hidden` of each row are normalised
void RmsNormInPlace(const Context& context, float* x, int row_stride, const BFloat16* weight,
                    float epsilon, int num_rows, int hidden);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_RMS_NORM_H_
