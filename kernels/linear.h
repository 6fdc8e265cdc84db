// Matrix product of rows with a weight matrix that is stored as in the checkpoint.
#ifndef MOE_KERNELS_LINEAR_H_
#define MOE_KERNELS_LINEAR_H_

#include "kernels/bf16.h"
#include "kernels/context.h"

namespace moe::kernels {

enum class Accumulate { kNo, kYes };

// out[t][n] = Dot(x[t], weight[n])          (kNo)
// out[t][n] = out[t][n] + Dot(x[t], weight[n])   (kYes: the residual)
//   x       [num_rows, in_features] bf16
//   weight  [out_features, in_features] bf16, row-major as in a safetensors file; 2-byte aligned
//   out     [num_rows, out_stride] fp32, the first out_features of each row are written
// Any sizes >= 0. One element's bits do not depend on num_rows.
void Linear(const Context& context, const BFloat16* x, const BFloat16* weight, int num_rows,
            int in_features, int out_features, float* out, int out_stride,
            Accumulate accumulate = Accumulate::kNo);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LINEAR_H_
