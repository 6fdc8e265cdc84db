#include "controller/api/moe_deployment.h"

#include <limits>

#include "gtest/gtest.h"

namespace moe::api {
namespace {

TEST(IntOrPercent, ACountIsItself) {
  EXPECT_EQ((IntOrPercent{3, false}.Resolve(10, true)), 3);
  EXPECT_EQ((IntOrPercent{0, false}.Resolve(10, true)), 0);
  EXPECT_EQ((IntOrPercent{-1, false}.Resolve(10, true)), 0);
}

TEST(IntOrPercent, APercentageRoundsAsAsked) {
  EXPECT_EQ((IntOrPercent{25, true}.Resolve(10, true)), 3);
  EXPECT_EQ((IntOrPercent{25, true}.Resolve(10, false)), 2);
  EXPECT_EQ((IntOrPercent{1, true}.Resolve(1, true)), 1);
  EXPECT_EQ((IntOrPercent{1, true}.Resolve(1, false)), 0);
  EXPECT_EQ((IntOrPercent{100, true}.Resolve(7, false)), 7);
  EXPECT_EQ((IntOrPercent{50, true}.Resolve(0, true)), 0);
  EXPECT_EQ((IntOrPercent{50, true}.Resolve(-4, true)), 0);
}

TEST(IntOrPercent, NoValueOverflows) {
  constexpr int kMax = std::numeric_limits<int>::max();
  EXPECT_EQ((IntOrPercent{kMax, true}.Resolve(kMax, true)), kMax);
}

TEST(Strategy, NamesWhatMultipliesToTheWorkers) {
  EXPECT_EQ(StrategyString(64, 1, 1, 1), "EP64_TP1_PP1_DP1");
  EXPECT_EQ(StrategyString(8, 1, 1, 2), "EP8_TP1_PP1_DP2");
}

}  // namespace
}  // namespace moe::api
