#include "simulator/random.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

constexpr int kDraws = 200000;

TEST(RandomTest, ASeedAndAStreamGiveTheSameNumbersAgain) {
  Random a(7, Stream::kArrivals);
  Random b(7, Stream::kArrivals);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Next(), b.Next());
}

TEST(RandomTest, OtherSeedsAndStreamsGiveOtherNumbers) {
  EXPECT_NE(Random(1, Stream::kArrivals).Next(), Random(2, Stream::kArrivals).Next());
  EXPECT_NE(Random(1, Stream::kArrivals).Next(), Random(1, Stream::kLengths).Next());
}

TEST(RandomTest, UniformNumbersAreSpreadOverTheirRange) {
  Random random(1, Stream::kRoutes);
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.Uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.003);
}

TEST(RandomTest, NumbersBelowABoundAreEquallyLikely) {
  Random random(1, Stream::kRoutes);
  std::vector<int> counts(7);
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(random.Below(7))];
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7.0, 1000);
}

TEST(RandomTest, ExponentialAndNormalNumbersHaveTheirMeanAndDeviation) {
  Random random(1, Stream::kArrivals);
  double exponential = 0;
  double exponential_squares = 0;
  double normal = 0;
  double normal_squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double e = random.Exponential();
    const double n = random.Normal();
    exponential += e;
    exponential_squares += e * e;
    normal += n;
    normal_squares += n * n;
  }
  EXPECT_NEAR(exponential / kDraws, 1, 0.01);
  EXPECT_NEAR(exponential_squares / kDraws, 2, 0.05);
  EXPECT_NEAR(normal / kDraws, 0, 0.01);
  EXPECT_NEAR(normal_squares / kDraws, 1, 0.02);
}

}  // namespace
}  // namespace moe::simulator
