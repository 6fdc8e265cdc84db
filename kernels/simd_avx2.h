// The lanes of simd.h as two AVX registers. Included by simd.h only.
#ifndef MOE_KERNELS_SIMD_AVX2_H_
#define MOE_KERNELS_SIMD_AVX2_H_

#include <immintrin.h>

namespace moe::kernels::MOE_KERNEL_LEVEL {
namespace {

struct F32x16 {
  __m256 lo;
  __m256 hi;
};

struct Pairs {
  __m256 even_lo, odd_lo;
  __m256 even_hi, odd_hi;
};

// All ones in the lanes below n.
MOE_INLINE __m256i LanesBelow(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

MOE_INLINE F32x16 Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
MOE_INLINE F32x16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
MOE_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
MOE_INLINE F32x16 LoadPartial(const float* p, int n, float fill) {
  const __m256i lo = LanesBelow(n);
  const __m256i hi = LanesBelow(n - 8);
  const __m256 filler = _mm256_set1_ps(fill);
  F32x16 result = {_mm256_maskload_ps(p, lo), filler};
  result.lo = _mm256_blendv_ps(filler, result.lo, _mm256_castsi256_ps(lo));
  if (n > 8) {
    result.hi = _mm256_blendv_ps(filler, _mm256_maskload_ps(p + 8, hi), _mm256_castsi256_ps(hi));
  }
  return result;
}
MOE_INLINE void Store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
MOE_INLINE void StorePartial(float* p, F32x16 a, int n) {
  _mm256_maskstore_ps(p, LanesBelow(n), a.lo);
  if (n > 8) _mm256_maskstore_ps(p + 8, LanesBelow(n - 8), a.hi);
}

MOE_INLINE __m256 Widen(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
MOE_INLINE F32x16 LoadBf16(const BFloat16* p) {
  return {Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
MOE_INLINE F32x16 LoadBf16Partial(const BFloat16* p, int n) {
  BFloat16 copy[16] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return LoadBf16(copy);
}
// Eight rounded values in the low halves of 32-bit lanes.
MOE_INLINE __m256i Round(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i upper = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, quiet, nan);
}
MOE_INLINE void StoreBf16(BFloat16* p, F32x16 a) {
  const __m256i packed = _mm256_packus_epi32(Round(a.lo), Round(a.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
MOE_INLINE void StoreBf16Partial(BFloat16* p, F32x16 a, int n) {
  BFloat16 copy[16];
  StoreBf16(copy, a);
  for (int i = 0; i < n; ++i) p[i] = copy[i];
}

MOE_INLINE F32x16 Add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
MOE_INLINE F32x16 Negate(F32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
MOE_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
MOE_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

MOE_INLINE __m256 ScaleHalf(__m256 p, __m256 t) {
  const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4b400000));
  const __m256i half = _mm256_srai_epi32(n, 1);
  const __m256i rest = _mm256_sub_epi32(n, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
MOE_INLINE F32x16 ScaleByMagic(F32x16 p, F32x16 t) {
  return {ScaleHalf(p.lo, t.lo), ScaleHalf(p.hi, t.hi)};
}

// Lanes i + i+8, then i + i+4.
MOE_INLINE __m128 ReduceToFour(F32x16 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
MOE_INLINE float ReduceTree(F32x16 a) {
  const __m128 four = ReduceToFour(a);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
MOE_INLINE void ReduceTree16(const F32x16* v, float* out) {
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m128 a = ReduceToFour(v[i]);
    const __m128 b = ReduceToFour(v[i + 1]);
    const __m128 c = ReduceToFour(v[i + 2]);
    const __m128 d = ReduceToFour(v[i + 3]);
    const __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    const __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_storeu_ps(out + i, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
  }
}

MOE_INLINE Pairs LoadPairs(const BFloat16* p) {
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(lo, upper)),
          _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(hi, upper))};
}
MOE_INLINE Pairs LoadPairsPartial(const BFloat16* p, int n) {
  BFloat16 copy[32] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return LoadPairs(copy);
}
MOE_INLINE F32x16 DotAdd(const Pairs& x, const Pairs& w, F32x16 acc) {
  return {_mm256_fmadd_ps(x.even_lo, w.even_lo, _mm256_fmadd_ps(x.odd_lo, w.odd_lo, acc.lo)),
          _mm256_fmadd_ps(x.even_hi, w.even_hi, _mm256_fmadd_ps(x.odd_hi, w.odd_hi, acc.hi))};
}

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_SIMD_AVX2_H_
