#include "simulator/statistics.h"

#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

TEST(StatisticsTest, QuantilesOfHundredNumbersAreTheirPlaces) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Distribution d = Summarize(values);
  EXPECT_EQ(d.count, 100);
  EXPECT_EQ(d.mean, 50.5);
  EXPECT_EQ(d.p50, 50);
  EXPECT_EQ(d.p90, 90);
  EXPECT_EQ(d.p99, 99);
  EXPECT_EQ(d.max, 100);
}

TEST(StatisticsTest, NothingHasNoQuantiles) {
  EXPECT_EQ(Summarize({}).count, 0);
  EXPECT_EQ(Histogram().Summarize().max, 0);
}

TEST(StatisticsTest, AHistogramIsOffByHalfAPercentAtMost) {
  Histogram histogram;
  std::vector<double> values;
  for (int i = 1; i <= 1000; ++i) {
    const double value = 1e-3 * i * i;
    histogram.Add(value);
    values.push_back(value);
  }
  const Distribution exact = Summarize(values);
  const Distribution rough = histogram.Summarize();
  EXPECT_EQ(rough.count, exact.count);
  EXPECT_DOUBLE_EQ(rough.mean, exact.mean);
  EXPECT_EQ(rough.max, exact.max);
  EXPECT_NEAR(rough.p50, exact.p50, 0.0051 * exact.p50);
  EXPECT_NEAR(rough.p90, exact.p90, 0.0051 * exact.p90);
  EXPECT_NEAR(rough.p99, exact.p99, 0.0051 * exact.p99);
}

}  // namespace
}  // namespace moe::simulator
