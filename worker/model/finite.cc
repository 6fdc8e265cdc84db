#include "worker/model/finite.h"

#include <algorithm>
#include <cstdint>

namespace moe::model {
namespace {

constexpr uint16_t kExponentMask = 0x7f80;
constexpr uint16_t kMantissaMask = 0x007f;
constexpr size_t kBlock = 4096;

// The largest exponent field among a block's values. A fixed trip count and no branch, so that the
// compiler vectorises it; the masked field is at most 0x7f80, so signed 16-bit maxima are right.
int16_t MaxExponent(const kernels::BFloat16* values) {
  int16_t max = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    const auto exponent = static_cast<int16_t>(values[i].bits & kExponentMask);
    max = exponent > max ? exponent : max;
  }
  return max;
}

NonFiniteCount CountEach(const kernels::BFloat16* values, size_t count) {
  NonFiniteCount found;
  for (size_t i = 0; i < count; ++i) {
    if ((values[i].bits & kExponentMask) != kExponentMask) continue;
    ++((values[i].bits & kMantissaMask) != 0 ? found.num_nan : found.num_infinite);
  }
  return found;
}

}  // namespace

NonFiniteCount CountNonFinite(const kernels::BFloat16* values, size_t count) {
  NonFiniteCount found;
  size_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    if (MaxExponent(values + i) == kExponentMask) found += CountEach(values + i, kBlock);
  }
  found += CountEach(values + i, count - i);
  return found;
}

}  // namespace moe::model
