// Losses of ranks under load: all requests end as they would have, and the group serves again.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/memory.h"
#include "tests/simulator/scenarios.h"

namespace moe::simulator {
namespace {

Config Loaded(const char* layout, double rate = 100) {
  return OlmoeConfig(layout, {.per_second = rate}, absl::Seconds(30));
}

Result RunAndCheck(const Config& config) {
  auto result = Simulate(config, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {};
  // No request is lost, and no token comes twice.
  EXPECT_EQ(result->num_completed, static_cast<int64_t>(config.requests.size()));
  EXPECT_EQ(result->num_output_tokens, NumOutputTokens(config));
  for (const Recovery& recovery : result->recoveries) {
    EXPECT_TRUE(recovery.detected_at.has_value()) << recovery.what;
    EXPECT_TRUE(recovery.active_at.has_value()) << recovery.what;
    EXPECT_GT(recovery.epoch_after, recovery.epoch_before) << recovery.what;
    EXPECT_LE(recovery.failed_at, *recovery.detected_at) << recovery.what;
    EXPECT_LT(*recovery.detected_at, *recovery.active_at) << recovery.what;
    // Other groups may have taken all requests.
    EXPECT_LE(*recovery.active_at, recovery.token_at.value_or(1e9)) << recovery.what;
  }
  return *std::move(result);
}

double LoadSeconds(const Config& config) {
  return planner::MemoryOf(config.scenario.model, config.layout, config.scenario.assumptions, 0, 1)
             .weight_bytes() /
         config.times.load_bytes_per_second;
}

TEST(RecoveryTest, ALostOwnerIsReplacedInTheTimeOfTheParts) {
  Config config = Loaded("EP4_TP1_PP1_DP1");
  config.failures = {{.at = absl::Seconds(10), .index = 3}};
  const Result result = RunAndCheck(config);
  ASSERT_EQ(result.recoveries.size(), 1);
  const Recovery& recovery = result.recoveries[0];
  EXPECT_DOUBLE_EQ(recovery.failed_at, 10);
  EXPECT_TRUE(recovery.token_at.has_value());
  EXPECT_NEAR(*recovery.detected_at, 10.05, 1e-6);
  // Report 1 s, start 5 s, loading, connecting 1 s, eight messages of 1 ms.
  EXPECT_NEAR(*recovery.active_at, 10 + 1 + 5 + LoadSeconds(config) + 1 + 0.008, 1e-6);
  EXPECT_GT(recovery.lost_kv_tokens, 0);
  EXPECT_NEAR(result.down_seconds, *recovery.active_at - 10, 1e-6);
  int64_t prompt_tokens = 0;
  for (const Request& request : config.requests) prompt_tokens += request.input_tokens;
  // What was lost is computed again, but for the one token of each sequence that never was; chunks
  // of prompts may be cut at other places.
  EXPECT_NEAR(static_cast<double>(result.num_computed_prompt_tokens),
              static_cast<double>(prompt_tokens + recovery.lost_kv_tokens),
              static_cast<double>(recovery.num_sequences));
}

TEST(RecoveryTest, ALostLeaderIsFollowedByOneThatGetsEveryRequestAgain) {
  Config config = Loaded("EP4_TP1_PP1_DP1");
  config.failures = {{.at = absl::Seconds(10), .index = 0}};
  const Result result = RunAndCheck(config);
  ASSERT_EQ(result.recoveries.size(), 1);
  EXPECT_GT(result.recoveries[0].num_sequences, 0);
  EXPECT_GT(result.recoveries[0].lost_kv_tokens, 0);
}

TEST(RecoveryTest, ARankThatHangsIsFoundByItsDeadline) {
  for (const int rank : {0, 3}) {
    Config config = Loaded("EP4_TP1_PP1_DP1");
    config.failures = {{.at = absl::Seconds(10), .kind = Failure::Kind::kHang, .index = rank}};
    const Result result = RunAndCheck(config);
    ASSERT_EQ(result.recoveries.size(), 1);
    EXPECT_GE(*result.recoveries[0].detected_at, 19) << rank;
    EXPECT_LE(*result.recoveries[0].detected_at, 20.2) << rank;
  }
}

TEST(RecoveryTest, ALostNodeTakesAllItsRanksAndTheyComeBackTogether) {
  Config config = Loaded("EP16_TP1_PP1_DP1");
  config.failures = {{.at = absl::Seconds(10), .kind = Failure::Kind::kNode, .index = 1}};
  const Result result = RunAndCheck(config);
  ASSERT_EQ(result.recoveries.size(), 1);
  EXPECT_EQ(result.recoveries[0].num_ranks, 8);
}

TEST(RecoveryTest, ANodeWithRanksOfSeveralGroupsHitsThemAll) {
  Config config = Loaded("EP2_TP1_PP1_DP8");
  config.failures = {{.at = absl::Seconds(10), .kind = Failure::Kind::kNode, .index = 0}};
  const Result result = RunAndCheck(config);
  ASSERT_EQ(result.recoveries.size(), 4);
  EXPECT_EQ(result.recoveries[3].group, 3);
}

TEST(RecoveryTest, OtherGroupsTakeTheSequencesOfOneThatStaysAwayTooLong) {
  Config config = Loaded("EP4_TP1_PP1_DP2", 400);
  config.times.start = absl::Seconds(20);
  config.failures = {{.at = absl::Seconds(10), .index = 5}};
  const Result result = RunAndCheck(config);
  EXPECT_GT(result.num_moved, 0);
  // The grace of five seconds, and the rest of the answer.
  EXPECT_LT(result.end_to_end.max, 8);
}

TEST(RecoveryTest, OneGroupAloneHoldsItsRequestsUntilItIsBack) {
  Config config = Loaded("EP4_TP1_PP1_DP1");
  config.failures = {{.at = absl::Seconds(10), .index = 1}};
  const Result result = RunAndCheck(config);
  EXPECT_EQ(result.num_moved, 0);
  EXPECT_GT(result.end_to_end.max, 6);
}

TEST(RecoveryTest, AFailureDuringARecoveryIsRecoveredFrom) {
  Config config = Loaded("EP4_TP1_PP1_DP1");
  config.failures = {{.at = absl::Seconds(10), .index = 1},
                     {.at = absl::Seconds(12), .index = 2},
                     {.at = absl::Seconds(14), .index = 0}};
  auto result = Simulate(config, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->num_completed, static_cast<int64_t>(config.requests.size()));
  EXPECT_EQ(result->num_output_tokens, NumOutputTokens(config));
  ASSERT_EQ(result->recoveries.size(), 3);
  for (const Recovery& recovery : result->recoveries) {
    EXPECT_TRUE(recovery.active_at.has_value());
    EXPECT_EQ(recovery.active_at, result->recoveries[0].active_at);
  }
}

TEST(RecoveryTest, AGroupThatIsGivenUpFailsItsRequestsAndSaysSo) {
  Config config = Loaded("EP2_TP1_PP1_DP1", 5);
  config.duration = absl::Seconds(120);
  config.requests.clear();
  for (int i = 0; i < 100; ++i) config.requests.push_back(At(i, 100, 10));
  for (int i = 0; i < 6; ++i) {
    config.failures.push_back({.at = absl::Seconds(5 + 15 * i), .index = 1});
  }
  const auto result = Simulate(config, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->num_failed, 0);
  EXPECT_EQ(result->num_arrived, 100);
  EXPECT_EQ(result->num_arrived, result->num_completed + result->num_failed);
}

}  // namespace
}  // namespace moe::simulator
