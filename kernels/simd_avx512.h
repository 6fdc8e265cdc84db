// The lanes of simd.h as one AVX-512 register, with and without bf16 products. Included by simd.h
// only.
#ifndef MOE_KERNELS_SIMD_AVX512_H_
#define MOE_KERNELS_SIMD_AVX512_H_

#include <immintrin.h>

namespace moe::kernels::MOE_KERNEL_LEVEL {
namespace {

struct F32x16 {
  __m512 v;
};

// The lanes below n.
MOE_INLINE __mmask16 LanesBelow(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

MOE_INLINE F32x16 Set(float x) { return {_mm512_set1_ps(x)}; }
MOE_INLINE F32x16 Zero() { return {_mm512_setzero_ps()}; }
MOE_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
MOE_INLINE F32x16 LoadPartial(const float* p, int n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), LanesBelow(n), p)};
}
MOE_INLINE void Store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
MOE_INLINE void StorePartial(float* p, F32x16 a, int n) {
  _mm512_mask_storeu_ps(p, LanesBelow(n), a.v);
}

MOE_INLINE F32x16 Widen(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
MOE_INLINE F32x16 LoadBf16(const BFloat16* p) {
  return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MOE_INLINE F32x16 LoadBf16Partial(const BFloat16* p, int n) {
  return Widen(_mm256_maskz_loadu_epi16(LanesBelow(n), p));
}
// Integer arithmetic rather than vcvtneps2bf16, which the level without bf16 lacks.
MOE_INLINE __m256i Round(F32x16 a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i upper = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}
MOE_INLINE void StoreBf16(BFloat16* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Round(a));
}
MOE_INLINE void StoreBf16Partial(BFloat16* p, F32x16 a, int n) {
  _mm256_mask_storeu_epi16(p, LanesBelow(n), Round(a));
}

MOE_INLINE F32x16 Add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
MOE_INLINE F32x16 Negate(F32x16 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
MOE_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
MOE_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

MOE_INLINE F32x16 ScaleByMagic(F32x16 p, F32x16 t) {
  const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(t.v), _mm512_set1_epi32(0x4b400000));
  const __m512i half = _mm512_srai_epi32(n, 1);
  const __m512i rest = _mm512_sub_epi32(n, half);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512i first = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
  const __m512i second = _mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23);
  return {
      _mm512_mul_ps(_mm512_mul_ps(p.v, _mm512_castsi512_ps(first)), _mm512_castsi512_ps(second))};
}

MOE_INLINE float ReduceTree(F32x16 a) {
  const __m512 eight = _mm512_add_ps(a.v, _mm512_shuffle_f32x4(a.v, a.v, 0xee));
  const __m512 four = _mm512_add_ps(eight, _mm512_shuffle_f32x4(eight, eight, 0x55));
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0xee));
  return _mm512_cvtss_f32(_mm512_add_ps(two, _mm512_permute_ps(two, 0x55)));
}

// Each step adds the upper to the lower half of what is left of two vectors and keeps both, so that
// 16 trees take 15 additions. The letters are the 128-bit quarters.
MOE_INLINE F32x16 AddHalves8(F32x16 a, F32x16 b) {  // a01 b01 + a23 b23
  return {
      _mm512_add_ps(_mm512_shuffle_f32x4(a.v, b.v, 0x44), _mm512_shuffle_f32x4(a.v, b.v, 0xee))};
}
MOE_INLINE F32x16 AddHalves4(F32x16 ab, F32x16 cd) {  // quarters: a b c d
  return {_mm512_add_ps(_mm512_shuffle_f32x4(ab.v, cd.v, 0x88),
                        _mm512_shuffle_f32x4(ab.v, cd.v, 0xdd))};
}
MOE_INLINE F32x16 AddHalves2(F32x16 p, F32x16 q) {
  return {_mm512_add_ps(_mm512_shuffle_ps(p.v, q.v, 0x44), _mm512_shuffle_ps(p.v, q.v, 0xee))};
}
MOE_INLINE F32x16 AddHalves1(F32x16 p, F32x16 q) {
  return {_mm512_add_ps(_mm512_shuffle_ps(p.v, q.v, 0x88), _mm512_shuffle_ps(p.v, q.v, 0xdd))};
}
// Quarter i, element j of the result is the tree of v[4 i + j].
MOE_INLINE F32x16 ReduceTree16(const F32x16* v) {
  F32x16 four[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    four[j] = AddHalves4(AddHalves8(v[j], v[4 + j]), AddHalves8(v[8 + j], v[12 + j]));
  }
  return AddHalves1(AddHalves2(four[0], four[1]), AddHalves2(four[2], four[3]));
}
MOE_INLINE void ReduceTree16(const F32x16* v, float* out) { Store(out, ReduceTree16(v)); }

#if MOE_KERNEL_LEVEL_NUMBER == 3

struct Pairs {
  __m512i v;
};
MOE_INLINE Pairs LoadPairs(const BFloat16* p) { return {_mm512_loadu_si512(p)}; }
MOE_INLINE Pairs LoadPairsPartial(const BFloat16* p, int n) {
  return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p)};
}
MOE_INLINE F32x16 DotAdd(const Pairs& x, const Pairs& w, F32x16 acc) {
  return {_mm512_dpbf16_ps(acc.v, __builtin_bit_cast(__m512bh, x.v),
                           __builtin_bit_cast(__m512bh, w.v))};
}

#else

struct Pairs {
  __m512 even;
  __m512 odd;
};
MOE_INLINE Pairs SplitPairs(__m512i v) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)),
      _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
MOE_INLINE Pairs LoadPairs(const BFloat16* p) { return SplitPairs(_mm512_loadu_si512(p)); }
MOE_INLINE Pairs LoadPairsPartial(const BFloat16* p, int n) {
  return SplitPairs(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p));
}
MOE_INLINE F32x16 DotAdd(const Pairs& x, const Pairs& w, F32x16 acc) {
  return {_mm512_fmadd_ps(x.even, w.even, _mm512_fmadd_ps(x.odd, w.odd, acc.v))};
}

#endif

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_SIMD_AVX512_H_
