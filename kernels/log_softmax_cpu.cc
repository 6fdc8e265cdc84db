// See log_softmax_cpu.h. Tested by tests/kernels/log_softmax_test.cc.
#include "kernels/log_softmax_cpu.h"

#include "kernels/simd.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

void RowMax(const float* x, int n, float* max) {
  const float lowest = -__builtin_inff();
  F32x16 lanes = Set(lowest);
  int i = 0;
  // The new value comes first: a NaN there leaves the lane as it is.
  for (; i + 16 <= n; i += 16) lanes = Max(Load(x + i), lanes);
  if (i < n) lanes = Max(LoadPartial(x + i, n - i, lowest), lanes);
  alignas(64) float values[16];
  Store(values, lanes);
  float result = lowest;
  for (const float value : values) result = value > result ? value : result;
  *max = result + 0.0f;  // one bit pattern for all zeros
}

void RowExpSum(const float* x, int n, float max, float* sum) {
  F32x16 lanes = Zero();
  int i = 0;
  for (; i + 16 <= n; i += 16) lanes = Add(lanes, Exp(Sub(Load(x + i), Set(max))));
  if (i < n) {  // Exp of the filler is 0, unless max is infinite: then the sum is NaN anyway
    lanes = Add(lanes, Exp(Sub(LoadPartial(x + i, n - i, -__builtin_inff()), Set(max))));
  }
  *sum = ReduceTree(lanes);
}

void RowExp(const float* x, int n, float max, float* out) {
  int i = 0;
  for (; i + 16 <= n; i += 16) Store(out + i, Exp(Sub(Load(x + i), Set(max))));
  if (i < n) {
    StorePartial(out + i, Exp(Sub(LoadPartial(x + i, n - i, 0.0f), Set(max))), n - i);
  }
}

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
