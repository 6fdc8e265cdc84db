#include "cli/calibrate/fit.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using testing::HasSubstr;

// Products of a matrix of one GB with so many rows, as rates have them, each off by its part of
// `noise`.
std::vector<ProductSample> Products(const ProductRates& rates, double noise) {
  std::vector<ProductSample> samples;
  double sign = 1;
  for (const double rows : {1, 2, 4, 8, 16, 64, 256}) {
    ProductSample sample = {.bytes = 1e9, .flops = 1e9 * rows};
    sample.seconds = SecondsOf(rates, sample) * (1 + noise * sign);
    sign = -sign;
    samples.push_back(sample);
  }
  return samples;
}

TEST(FitTest, TheMedianIsTheMiddleOrTheMeanOfTheTwoInTheMiddle) {
  EXPECT_EQ(Median({3}), 3);
  EXPECT_EQ(Median({9, 1, 5}), 5);
  EXPECT_EQ(Median({9, 1, 5, 7}), 6);
}

TEST(FitTest, AProductTakesTheLongerPartAndWhatOfTheShorterDoesNotHide) {
  const ProductSample sample = {.bytes = 20e9, .flops = 300e9};
  ProductRates rates = {.bytes_per_second = 10e9, .flops_per_second = 100e9, .overlap = 1};
  EXPECT_DOUBLE_EQ(SecondsOf(rates, sample), 3);
  rates.overlap = 0;
  EXPECT_DOUBLE_EQ(SecondsOf(rates, sample), 5);
  rates.overlap = 0.75;
  EXPECT_DOUBLE_EQ(SecondsOf(rates, sample), 3.5);
}

TEST(FitTest, RatesAreFoundAgainWhateverOfReadingHides) {
  for (const double overlap : {0.0, 0.5, 1.0}) {
    const ProductRates truth = {
        .bytes_per_second = 25e9, .flops_per_second = 600e9, .overlap = overlap};
    const auto found = FitProducts(Products(truth, 0));
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_NEAR(found->bytes_per_second / truth.bytes_per_second, 1, 0.02) << overlap;
    EXPECT_NEAR(found->flops_per_second / truth.flops_per_second, 1, 0.02) << overlap;
    EXPECT_NEAR(found->overlap, overlap, 0.03);
    EXPECT_LT(found->worst_error, 0.02);
  }
}

TEST(FitTest, NoiseMovesTheRatesByNoMoreThanItself) {
  const ProductRates truth = {.bytes_per_second = 25e9, .flops_per_second = 600e9, .overlap = 0.4};
  const auto found = FitProducts(Products(truth, 0.1));
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_NEAR(found->bytes_per_second / truth.bytes_per_second, 1, 0.1);
  EXPECT_NEAR(found->flops_per_second / truth.flops_per_second, 1, 0.1);
  EXPECT_GT(found->worst_error, 0.05);
  EXPECT_LT(found->worst_error, 0.2);
}

TEST(FitTest, ProductsThatSayNothingAreRefused) {
  EXPECT_THAT(FitProducts({}).status().message(), HasSubstr("fewer than three"));
  std::vector<ProductSample> samples = Products({1e9, 1e9, 1}, 0);
  samples[2].seconds = 0;
  EXPECT_THAT(FitProducts(samples).status().message(), HasSubstr("took no time"));
}

TEST(FitTest, SecondsOfEachKindAreFoundAgain) {
  std::vector<SumSample> samples;
  for (const double messages : {1, 8, 50}) {
    for (const double bytes : {1e3, 1e6}) {
      samples.push_back({{1, messages, bytes}, 20e-6 + 5e-6 * messages + bytes / 2e9});
    }
  }
  const auto seconds = FitSum(samples);
  ASSERT_TRUE(seconds.ok()) << seconds.status();
  EXPECT_NEAR((*seconds)[0], 20e-6, 1e-9);
  EXPECT_NEAR((*seconds)[1], 5e-6, 1e-10);
  EXPECT_NEAR(1 / (*seconds)[2], 2e9, 1e5);
}

TEST(FitTest, AKindThatSeemsToSaveTimeTakesNone) {
  // A line through these has a negative constant.
  const std::vector<SumSample> samples = {{{1, 1}, 1}, {{1, 2}, 2.5}, {{1, 3}, 4}};
  const auto seconds = FitSum(samples);
  ASSERT_TRUE(seconds.ok()) << seconds.status();
  EXPECT_EQ((*seconds)[0], 0);
  EXPECT_GT((*seconds)[1], 1);
  EXPECT_LT((*seconds)[1], 1.5);
}

TEST(FitTest, SumsThatCannotBeToldApartAreRefused) {
  EXPECT_THAT(FitSum({}).status().message(), HasSubstr("one to eight kinds"));
  EXPECT_THAT(FitSum({{{{1, 0}, 1}}}).status().message(), HasSubstr("each of which happened"));
  EXPECT_THAT(FitSum({{{{1, 2}, 1}, {{1}, 1}}}).status().message(), HasSubstr("different kinds"));
  EXPECT_THAT(FitSum({{{{1, 2}, 1}, {{2, 4}, 2}}}).status().message(), HasSubstr("apart"));
}

}  // namespace
}  // namespace moe::cli
