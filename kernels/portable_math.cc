// See portable_math.h. Tested by tests/kernels/portable_math_test.cc.
//
// Only +, -, *, /, shifts and rounding to integers, compiled without contraction. Each is a range
// reduction followed by a series that is cut where its next term is below half a unit in the last
// place.
#include "kernels/portable_math.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace moe::kernels {

namespace {

// ln 2 and pi / 2 in parts whose upper ones have trailing zeros, so that their products with the
// integers below are exact (values as in fdlibm, https://www.netlib.org/fdlibm/).
constexpr double kLn2High = 6.93147180369123816490e-01;
constexpr double kLn2Low = 1.90821492927058770002e-10;
constexpr double kHalfPi1 = 1.57079632673412561417e+00;
constexpr double kHalfPi2 = 6.07710050630396597660e-11;
constexpr double kHalfPi3 = 2.02226624871116645580e-21;
constexpr double kTwoOverPi = 6.36619772367581382433e-01;

constexpr int kMantissaBits = 52;
constexpr int kExponentBias = 1023;

}  // namespace

double PortableLog(double x) {
  // x = 2^n * m with m in [sqrt(1/2), sqrt(2)); log(m) = 2 atanh(s), s = (m - 1) / (m + 1).
  const auto bits = std::bit_cast<uint64_t>(x);
  int n = static_cast<int>(bits >> kMantissaBits) - kExponentBias;
  constexpr uint64_t kMantissa = (uint64_t{1} << kMantissaBits) - 1;
  auto m = std::bit_cast<double>((bits & kMantissa) | (uint64_t{kExponentBias} << kMantissaBits));
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++n;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double series = 0.0;
  for (int k = 23; k >= 3; k -= 2) series = (series + 1.0 / k) * s2;
  return n * kLn2High + (2.0 * s + (2.0 * s * series + n * kLn2Low));
}

double PortableExp(double x) {
  const int64_t n = std::llround(x / (kLn2High + kLn2Low));
  const auto power = static_cast<double>(n);
  const double r = (x - power * kLn2High) - power * kLn2Low;
  double series = 1.0;
  for (int k = 14; k >= 1; --k) series = 1.0 + r * series / k;
  const auto exponent = static_cast<uint64_t>(n + kExponentBias);
  return series * std::bit_cast<double>(exponent << kMantissaBits);
}

SinCos PortableSinCos(double x) {
  const int64_t n = std::llround(x * kTwoOverPi);
  const auto turns = static_cast<double>(n);
  const double r = ((x - turns * kHalfPi1) - turns * kHalfPi2) - turns * kHalfPi3;
  const double r2 = r * r;
  double sin = 0.0;
  for (int k = 18; k >= 2; k -= 2) sin = (1.0 - sin) * r2 / (k * (k + 1.0));
  sin = r - r * sin;
  double cos = 0.0;
  for (int k = 17; k >= 1; k -= 2) cos = (1.0 - cos) * r2 / (k * (k + 1.0));
  cos = 1.0 - cos;
  switch (n & 3) {
    case 0:
      return {.sin = sin, .cos = cos};
    case 1:
      return {.sin = cos, .cos = -sin};
    case 2:
      return {.sin = -sin, .cos = -cos};
    default:
      return {.sin = -cos, .cos = sin};
  }
}

}  // namespace moe::kernels
