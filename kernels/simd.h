// Sixteen fp32 lanes for one CPU level, and the functions whose bits numerics.h promises.
//
// Included only by *_cpu.cc files, which are compiled once for each level. Everything here lies in
// the level's namespace and is always inlined, and nothing with inline functions of its own is
// included, because the linker merges equal inline functions of different files: the copy it keeps
// might use instructions that this CPU lacks.
#ifndef MOE_KERNELS_SIMD_H_
#define MOE_KERNELS_SIMD_H_

#include <stdint.h>

#include "kernels/bf16.h"

#if !defined(MOE_KERNEL_LEVEL) || !defined(MOE_KERNEL_LEVEL_NUMBER)
#error "Compiled by moe_add_kernel_levels() only."
#endif

#define MOE_INLINE static inline __attribute__((always_inline))

#if MOE_KERNEL_LEVEL_NUMBER >= 2
#include "kernels/simd_avx512.h"
#elif MOE_KERNEL_LEVEL_NUMBER == 1
#include "kernels/simd_avx2.h"
#else
#include "kernels/simd_plain.h"
#endif

// The layer of each level has:
//   F32x16                                the lanes
//   Zero, Set, Load, LoadPartial (the lanes from n on are `fill`), Store, StorePartial
//   LoadBf16, LoadBf16Partial (zeros from n on), StoreBf16, StoreBf16Partial (rounded)
//   Add, Sub, Mul, Div, Sqrt, Negate, Fma(a, b, c) = a * b + c with one rounding
//   Min, Max                              a < b ? a : b and a > b ? a : b: a NaN in b stays
//   ScaleByMagic(p, t)                    p * 2^n, n being the low bits of t (see Exp)
//   ReduceTree                            the tree of numerics.h
//   ReduceTree16(v, out)                  out[i] = ReduceTree(v[i]) for 16 vectors
//   Pairs, LoadPairs, LoadPairsPartial    32 bf16 as 16 pairs
//   DotAdd(x, w, acc)                     one chunk of the dot product
namespace moe::kernels::MOE_KERNEL_LEVEL {
namespace {

// Exp and Sigmoid: relative error below 2^-22.9 where the result is normal, zero below that.
// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln(2) / 2; exp(r) = 1 + r + r^2 * P(r) with
// the coefficients of Cephes' expf (https://www.netlib.org/cephes/, single/expf.c).
MOE_INLINE F32x16 Exp(F32x16 x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  // Beyond these the result is 0 and infinity; 2^n is then applied in two halves that fit.
  x = Min(Set(104.0f), Max(Set(-104.0f), x));
  const F32x16 t = Fma(x, Set(1.44269504088896341f), Set(kMagic));
  const F32x16 n = Sub(t, Set(kMagic));
  F32x16 r = Fma(n, Set(-0.693147182464599609375f), x);
  r = Fma(n, Set(1.904654299957768e-9f), r);
  F32x16 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, Mul(r, r), r);
  p = Add(p, Set(1.0f));
  return ScaleByMagic(p, t);
}

// 1 / (1 + exp(-x)).
MOE_INLINE F32x16 Sigmoid(F32x16 x) { return Div(Set(1.0f), Add(Set(1.0f), Exp(Negate(x)))); }

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_SIMD_H_
