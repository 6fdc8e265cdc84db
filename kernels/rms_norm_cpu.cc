// See rms_norm_cpu.h. Tested by tests/kernels/rms_norm_test.cc.
#include "kernels/rms_norm_cpu.h"

#include "kernels/simd.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

namespace {

// 1 / sqrt(mean of squares + epsilon) in each lane.
MOE_INLINE F32x16 InverseRms(const float* x, float epsilon, int hidden) {
  F32x16 lanes = Zero();
  int i = 0;
  for (; i + 16 <= hidden; i += 16) {
    const F32x16 value = Load(x + i);
    lanes = Add(lanes, Mul(value, value));
  }
  if (i < hidden) {  // adding the filler's 0 changes no lane: no lane is -0
    const F32x16 value = LoadPartial(x + i, hidden - i, 0.0f);
    lanes = Add(lanes, Mul(value, value));
  }
  const F32x16 mean = Div(Set(ReduceTree(lanes)), Set(static_cast<float>(hidden)));
  return Div(Set(1.0f), Sqrt(Add(mean, Set(epsilon))));
}

}  // namespace

void RmsNormRow(const float* x, const BFloat16* weight, float epsilon, int hidden, BFloat16* out) {
  const F32x16 scale = InverseRms(x, epsilon, hidden);
  int i = 0;
  for (; i + 16 <= hidden; i += 16) {
    StoreBf16(out + i, Mul(Mul(Load(x + i), scale), LoadBf16(weight + i)));
  }
  if (i < hidden) {
    const int left = hidden - i;
    const F32x16 value = LoadPartial(x + i, left, 0.0f);
    StoreBf16Partial(out + i, Mul(Mul(value, scale), LoadBf16Partial(weight + i, left)), left);
  }
}

void RmsNormRowInPlace(float* x, const BFloat16* weight, float epsilon, int hidden) {
  const F32x16 scale = InverseRms(x, epsilon, hidden);
  int i = 0;
  for (; i + 16 <= hidden; i += 16) {
    Store(x + i, Mul(Mul(Load(x + i), scale), LoadBf16(weight + i)));
  }
  if (i < hidden) {
    const int left = hidden - i;
    const F32x16 value = LoadPartial(x + i, left, 0.0f);
    StorePartial(x + i, Mul(Mul(value, scale), LoadBf16Partial(weight + i, left)), left);
  }
}

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
