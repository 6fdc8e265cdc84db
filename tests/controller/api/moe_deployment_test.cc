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

TEST(DescribeChoice, HasWhatIsKnown) {
  LayoutChoice choice{.layout = "EP8_TP1_PP1_DP1+A4", .expert = 8, .attention_ranks = 4};
  EXPECT_EQ(DescribeChoice(choice), "EP8_TP1_PP1_DP1+A4");
  choice.num_gpus = 16;
  choice.figures = LayoutFigures{.sequences = 64,
                                 .pass_milliseconds = 1.934,
                                 .tokens_per_second = 33113,
                                 .requests_per_second = 410.25,
                                 .gpu_memory_bytes = 31100000000,
                                 .limited_by = "latency of the exchange"};
  choice.needs = "worker.gpusPerPod: 8";
  EXPECT_EQ(DescribeChoice(choice),
            "EP8_TP1_PP1_DP1+A4 on 16 GPUs: 1.93 ms a pass, 33113 tokens/s, 410.25 requests/s, "
            "31.1 GB on a GPU, limited by latency of the exchange; needs worker.gpusPerPod: 8");
}

TEST(SameLayout, GoesByWhatAGroupIs) {
  const LayoutChoice one{.layout = "a", .expert = 8, .attention_ranks = 4, .num_gpus = 8};
  LayoutChoice other{.layout = "b", .expert = 8, .attention_ranks = 4, .num_gpus = 16};
  EXPECT_TRUE(SameLayout(one, other));
  other.replicated_attention = true;
  EXPECT_FALSE(SameLayout(one, other));
  other = one;
  other.attention_ranks = 8;
  EXPECT_FALSE(SameLayout(one, other));
  other = one;
  other.expert = 16;
  EXPECT_FALSE(SameLayout(one, other));
}

}  // namespace
}  // namespace moe::api
