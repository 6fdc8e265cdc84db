// The lanes of simd.h without vector instructions. Included by simd.h only.
#ifndef MOE_KERNELS_SIMD_PLAIN_H_
#define MOE_KERNELS_SIMD_PLAIN_H_

namespace moe::kernels::MOE_KERNEL_LEVEL {
namespace {

struct F32x16 {
  float v[16];
};

struct Pairs {
  float even[16];
  float odd[16];
};

MOE_INLINE float Widen(BFloat16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

MOE_INLINE BFloat16 Round(float x) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

#define MOE_EACH_LANE(expression)                        \
  F32x16 result;                                         \
  for (int i = 0; i < 16; ++i) result.v[i] = expression; \
  return result

MOE_INLINE F32x16 Set(float x) { MOE_EACH_LANE(x); }
MOE_INLINE F32x16 Zero() { return Set(0.0f); }
MOE_INLINE F32x16 Load(const float* p) { MOE_EACH_LANE(p[i]); }
MOE_INLINE F32x16 LoadPartial(const float* p, int n, float fill) {
  MOE_EACH_LANE(i < n ? p[i] : fill);
}
MOE_INLINE void StorePartial(float* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
MOE_INLINE void Store(float* p, F32x16 a) { StorePartial(p, a, 16); }

MOE_INLINE F32x16 LoadBf16(const BFloat16* p) { MOE_EACH_LANE(Widen(p[i])); }
MOE_INLINE F32x16 LoadBf16Partial(const BFloat16* p, int n) {
  MOE_EACH_LANE(i < n ? Widen(p[i]) : 0.0f);
}
MOE_INLINE void StoreBf16Partial(BFloat16* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = Round(a.v[i]);
}
MOE_INLINE void StoreBf16(BFloat16* p, F32x16 a) { StoreBf16Partial(p, a, 16); }

MOE_INLINE F32x16 Add(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] + b.v[i]); }
MOE_INLINE F32x16 Sub(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] - b.v[i]); }
MOE_INLINE F32x16 Mul(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] * b.v[i]); }
MOE_INLINE F32x16 Div(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] / b.v[i]); }
MOE_INLINE F32x16 Sqrt(F32x16 a) { MOE_EACH_LANE(__builtin_sqrtf(a.v[i])); }
MOE_INLINE F32x16 Negate(F32x16 a) { MOE_EACH_LANE(-a.v[i]); }
MOE_INLINE F32x16 Min(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
MOE_INLINE F32x16 Max(F32x16 a, F32x16 b) { MOE_EACH_LANE(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
MOE_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  MOE_EACH_LANE(__builtin_fmaf(a.v[i], b.v[i], c.v[i]));
}

MOE_INLINE F32x16 ScaleByMagic(F32x16 p, F32x16 t) {
  F32x16 result;
  for (int i = 0; i < 16; ++i) {
    const auto n = static_cast<int32_t>(__builtin_bit_cast(uint32_t, t.v[i]) - 0x4b400000u);
    const uint32_t half = static_cast<uint32_t>(n >> 1);
    const uint32_t rest = static_cast<uint32_t>(n) - half;
    result.v[i] = p.v[i] * __builtin_bit_cast(float, (half + 127u) << 23) *
                  __builtin_bit_cast(float, (rest + 127u) << 23);
  }
  return result;
}

MOE_INLINE float ReduceTree(F32x16 a) {
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
  }
  return a.v[0];
}

MOE_INLINE void ReduceTree16(const F32x16* v, float* out) {
  for (int i = 0; i < 16; ++i) out[i] = ReduceTree(v[i]);
}

MOE_INLINE Pairs LoadPairsPartial(const BFloat16* p, int n) {
  Pairs result;
  for (int i = 0; i < 16; ++i) {
    result.even[i] = 2 * i < n ? Widen(p[2 * i]) : 0.0f;
    result.odd[i] = 2 * i + 1 < n ? Widen(p[2 * i + 1]) : 0.0f;
  }
  return result;
}
MOE_INLINE Pairs LoadPairs(const BFloat16* p) { return LoadPairsPartial(p, 32); }

MOE_INLINE F32x16 DotAdd(const Pairs& x, const Pairs& w, F32x16 acc) {
  MOE_EACH_LANE(__builtin_fmaf(x.even[i], w.even[i], __builtin_fmaf(x.odd[i], w.odd[i], acc.v[i])));
}

#undef MOE_EACH_LANE

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_SIMD_PLAIN_H_
