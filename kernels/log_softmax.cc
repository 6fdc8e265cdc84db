// See log_softmax.h. Tested by tests/kernels/log_softmax_test.cc.
#include "kernels/log_softmax.h"

#include <cmath>

#include "kernels/log_softmax_cpu.h"
#include "kernels/numerics.h"
#include "kernels/portable_math.h"

namespace moe::kernels {

LogSumExp ComputeLogSumExp(const Context& context, const float* logits, int vocab_size) {
  const ScopedFlushDenormals flush;
  LogSumExp result = {};
  MOE_KERNELS_SELECT_LEVEL(context.level, RowMax)(logits, vocab_size, &result.max);
  float sum = 0.0f;
  MOE_KERNELS_SELECT_LEVEL(context.level, RowExpSum)(logits, vocab_size, result.max, &sum);
  // A NaN, or a maximum of either infinity, has made the sum NaN; an empty row has made it 0.
  result.finite = sum > 0.0f;
  result.log_sum_exp = result.finite ? PortableLog(sum) + result.max : std::nan("");
  return result;
}

void ExpMinusMax(const Context& context, const float* logits, float max, int vocab_size,
                 float* out) {
  const ScopedFlushDenormals flush;
  MOE_KERNELS_SELECT_LEVEL(context.level, RowExp)(logits, vocab_size, max, out);
}

}  // namespace moe::kernels
