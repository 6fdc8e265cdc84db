#include "simulator/failures.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

planner::Layout Parse(const char* text) { return planner::ParseLayout(text).value(); }

TEST(FailuresTest, FailuresAreRead) {
  const auto rank = ParseFailure("120s:rank=17");
  ASSERT_TRUE(rank.ok()) << rank.status();
  EXPECT_EQ(rank->at, absl::Seconds(120));
  EXPECT_EQ(rank->index, 17);
  EXPECT_EQ(ParseFailure("0s:hang=0")->kind, Failure::Kind::kHang);
  EXPECT_EQ(ParseFailure("1m30s:node=2")->kind, Failure::Kind::kNode);
}

TEST(FailuresTest, WhatIsNoFailureIsRefusedWithWhatCanBeWritten) {
  for (const char* text : {"", "20s", "20s:", "20s:rank", "20s:rank=", "20s:rank=-1", "20s:gpu=1",
                           "-1s:rank=1", "inf:rank=1", "x:rank=1", "rank=1", "20s:rank=1x"}) {
    const auto failure = ParseFailure(text);
    ASSERT_TRUE(absl::IsInvalidArgument(failure.status())) << text;
    EXPECT_THAT(failure.status().message(), HasSubstr("20s:rank=3")) << text;
  }
}

TEST(FailuresTest, ANodeTakesTheRanksOfItsGpusWithIt) {
  const planner::Network network{.gpus_per_node = 8};
  const Failure node{.kind = Failure::Kind::kNode, .index = 1};
  EXPECT_THAT(*RanksOfFailure(node, Parse("EP4_TP1_PP1_DP4"), network),
              ElementsAre(8, 9, 10, 11, 12, 13, 14, 15));
  EXPECT_THAT(*RanksOfFailure(node, Parse("EP4_TP4_PP1_DP1"), network), ElementsAre(2, 3));
  EXPECT_THAT(*RanksOfFailure(node, Parse("EP2_TP1_PP1_DP5"), network), ElementsAre(8, 9));
}

TEST(FailuresTest, RanksAndNodesThatAreNotThereCanNotFail) {
  const planner::Network network{.gpus_per_node = 8};
  const planner::Layout layout = Parse("EP64_TP1_PP1_DP2");
  EXPECT_TRUE(RanksOfFailure({.index = 127}, layout, network).ok());
  EXPECT_THAT(RanksOfFailure({.index = 128}, layout, network).status().message(),
              HasSubstr("ranks 0 to 127"));
  EXPECT_THAT(RanksOfFailure({.kind = Failure::Kind::kNode, .index = 16}, layout, network)
                  .status()
                  .message(),
              HasSubstr("nodes 0 to 15"));
}

}  // namespace
}  // namespace moe::simulator
