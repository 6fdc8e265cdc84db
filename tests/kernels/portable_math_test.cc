// Tests kernels/portable_math.h.
#include "kernels/portable_math.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace moe::kernels {
namespace {

TEST(PortableMathTest, LogIsAccurate) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> exponent(-300.0, 300.0);
  for (int i = 0; i < 100000; ++i) {
    // Near 1 in a third of the cases: there the result is small.
    const double x = i % 3 == 0 ? 1.0 + exponent(random) / 1000 : std::exp(exponent(random));
    ASSERT_NEAR(PortableLog(x), std::log(x), 0x1p-50 * std::abs(std::log(x))) << x;
  }
  EXPECT_EQ(PortableLog(1.0), 0.0);
}

TEST(PortableMathTest, ExpIsAccurate) {
  std::mt19937 random(2);
  std::uniform_real_distribution<double> argument(-700.0, 700.0);
  for (int i = 0; i < 100000; ++i) {
    const double x = i % 3 == 0 ? argument(random) / 700 : argument(random);
    ASSERT_NEAR(PortableExp(x), std::exp(x), 0x1p-49 * std::exp(x)) << x;
  }
  EXPECT_EQ(PortableExp(0.0), 1.0);
}

TEST(PortableMathTest, SinAndCosAreAccurate) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> exponent(-30.0, 20.0);
  for (int i = 0; i < 200000; ++i) {
    const double x = std::exp2(exponent(random));
    const SinCos result = PortableSinCos(x);
    ASSERT_NEAR(result.sin, std::sin(x), 0x1p-49) << x;
    ASSERT_NEAR(result.cos, std::cos(x), 0x1p-49) << x;
  }
  EXPECT_EQ(PortableSinCos(0.0).sin, 0.0);
  EXPECT_EQ(PortableSinCos(0.0).cos, 1.0);
}

}  // namespace
}  // namespace moe::kernels
