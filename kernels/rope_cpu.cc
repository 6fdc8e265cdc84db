// See rope_cpu.h. Tested by tests/kernels/rope_test.cc.
#include "kernels/rope_cpu.h"

#include "kernels/simd.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

void RotateHead(const float* cos, const float* sin, int half_dim, float* x) {
  float* y = x + half_dim;
  int i = 0;
  for (; i + 16 <= half_dim; i += 16) {
    const F32x16 a = Load(x + i);
    const F32x16 b = Load(y + i);
    const F32x16 c = Load(cos + i);
    const F32x16 s = Load(sin + i);
    Store(x + i, Fma(a, c, Negate(Mul(b, s))));
    Store(y + i, Fma(b, c, Mul(a, s)));
  }
  if (i < half_dim) {
    const int left = half_dim - i;
    const F32x16 a = LoadPartial(x + i, left, 0.0f);
    const F32x16 b = LoadPartial(y + i, left, 0.0f);
    const F32x16 c = LoadPartial(cos + i, left, 0.0f);
    const F32x16 s = LoadPartial(sin + i, left, 0.0f);
    StorePartial(x + i, Fma(a, c, Negate(Mul(b, s))), left);
    StorePartial(y + i, Fma(b, c, Mul(a, s)), left);
  }
}

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
