// The per-level parts of rms_norm.h, for one row.
#ifndef MOE_KERNELS_RMS_NORM_CPU_H_
#define MOE_KERNELS_RMS_NORM_CPU_H_

#include "kernels/bf16.h"
#include "kernels/levels.h"

namespace moe::kernels {

MOE_KERNELS_DECLARE_LEVELS(RmsNormRow, const float* x, const BFloat16* weight, float epsilon,
                           int hidden, BFloat16* out)
MOE_KERNELS_DECLARE_LEVELS(RmsNormRowInPlace, float* x, const BFloat16* weight, float epsilon,
                           int hidden)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_RMS_NORM_CPU_H_
