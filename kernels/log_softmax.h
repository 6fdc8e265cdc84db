// Softmax statistics of a row of logits.
#ifndef MOE_KERNELS_LOG_SOFTMAX_H_
#define MOE_KERNELS_LOG_SOFTMAX_H_

#include "kernels/context.h"

namespace moe::kernels {

struct LogSumExp {
  float max;           // of the row, NaN left out
  double log_sum_exp;  // log(sum(exp(x - max))) + max, the logarithm in double; NaN if not finite
  bool finite;         // no NaN and no +infinity in the row, and at least one finite value
};

// Sum and Exp as in numerics.h. `logits` [vocab_size] fp32; -infinity is allowed (a banned token).
LogSumExp ComputeLogSumExp(const Context& context, const float* logits, int vocab_size);

// out[i] = Exp(logits[i] - max) for the caller's own sampling; `out` may be `logits`.
void ExpMinusMax(const Context& context, const float* logits, float max, int vocab_size,
                 float* out);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LOG_SOFTMAX_H_
