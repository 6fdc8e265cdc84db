#include "simulator/limits.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::simulator {
namespace {

using ::testing::HasSubstr;

planner::Layout Parse(const char* text) { return planner::ParseLayout(text).value(); }

TEST(LimitsTest, TheKvCacheTakesWhatWeightsAndBuffersLeave) {
  const planner::Scenario scenario = planner::OlmoeOn(64);
  const planner::Layout layout = Parse("EP64_TP1_PP1_DP1");
  const auto leader = MakeLeaderOptions(scenario, layout, {});
  ASSERT_TRUE(leader.ok()) << leader.status();
  const double free =
      141e9 - planner::MemoryOf(scenario.model, layout, scenario.assumptions, 0, 1).total_bytes();
  EXPECT_EQ(leader->limits.kv_blocks_per_owner, static_cast<int>(free / (32 * 131072)));
  EXPECT_EQ(leader->limits.num_owners, 64);
  EXPECT_EQ(leader->limits.max_step_tokens, 4096);
  EXPECT_EQ(leader->limits.max_sequences, 4096);
  EXPECT_EQ(leader->max_context, 4096);
}

TEST(LimitsTest, GivenLimitsAreTaken) {
  const auto leader = MakeLeaderOptions(
      planner::OlmoeOn(8), Parse("EP8_TP1_PP1_DP1+A2"),
      {.max_sequences = 7, .max_step_tokens = 99, .max_queue = 5, .kv_tokens = 10 * 32});
  ASSERT_TRUE(leader.ok()) << leader.status();
  EXPECT_EQ(leader->limits.num_owners, 2);
  EXPECT_EQ(leader->limits.max_sequences, 7);
  EXPECT_EQ(leader->limits.max_step_tokens, 99);
  EXPECT_EQ(leader->max_queue, 5);
  EXPECT_EQ(leader->limits.kv_blocks_per_owner, 10);
}

TEST(LimitsTest, WhatCannotWorkIsRefusedWithThePlannersReason) {
  EXPECT_THAT(
      MakeLeaderOptions(planner::OlmoeOn(64), Parse("EP48_TP1_PP1_DP1"), {}).status().message(),
      HasSubstr("48"));
  planner::Scenario small = planner::OlmoeOn(1);
  small.device.memory_bytes = 10e9;
  EXPECT_TRUE(absl::IsResourceExhausted(MakeLeaderOptions(small, Parse("DP1"), {}).status()));
  EXPECT_THAT(
      MakeLeaderOptions(planner::OlmoeOn(1), Parse("DP1"), {.kv_tokens = 31}).status().message(),
      HasSubstr("holds nothing"));
}

}  // namespace
}  // namespace moe::simulator
