// The per-level part of rope.h, for one head of one row.
#ifndef MOE_KERNELS_ROPE_CPU_H_
#define MOE_KERNELS_ROPE_CPU_H_

#include "kernels/levels.h"

namespace moe::kernels {

// cos, sin [half_dim]; x [2 * half_dim]
MOE_KERNELS_DECLARE_LEVELS(RotateHead, const float* cos, const float* sin, int half_dim, float* x)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_ROPE_CPU_H_
