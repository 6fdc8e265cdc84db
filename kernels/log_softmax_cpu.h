// The per-level parts of softmax, for one row: log_softmax.h and router.h use them.
#ifndef MOE_KERNELS_LOG_SOFTMAX_CPU_H_
#define MOE_KERNELS_LOG_SOFTMAX_CPU_H_

#include "kernels/levels.h"

namespace moe::kernels {

// The largest of n values, NaN left out; -infinity if there is none. Never -0 nor a denormal.
MOE_KERNELS_DECLARE_LEVELS(RowMax, const float* x, int n, float* max)
// Sum(Exp(x - max)).
MOE_KERNELS_DECLARE_LEVELS(RowExpSum, const float* x, int n, float max, float* sum)
// out = Exp(x - max), where `out` may be `x`.
MOE_KERNELS_DECLARE_LEVELS(RowExp, const float* x, int n, float max, float* out)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LOG_SOFTMAX_CPU_H_
