// bfloat16 storage type: the upper half of an IEEE-754 binary32.
#ifndef MOE_KERNELS_BF16_H_
#define MOE_KERNELS_BF16_H_

#include <bit>
#include <cstdint>

namespace moe::kernels {

struct BFloat16 {
  uint16_t bits;
};
static_assert(sizeof(BFloat16) == 2);

inline float ToFloat(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Rounds to nearest, ties to even. A NaN stays a (quiet) NaN.
inline BFloat16 ToBFloat16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

}  // namespace moe::kernels

#endif  // MOE_KERNELS_BF16_H_
