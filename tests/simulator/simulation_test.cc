#include "simulator/simulation.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/forward_time.h"
#include "tests/simulator/scenarios.h"

namespace moe::simulator {
namespace {

using ::testing::HasSubstr;

Result Simulated(const Config& config) {
  auto result = Simulate(config, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Result();
}

// ---- By hand ----

TEST(SimulationTest, ARequestTakesOneStepForEachToken) {
  Config config = TenMillisecondConfig("DP1");
  config.requests = {At(0.1, 100, 5)};
  const Result result = Simulated(config);
  EXPECT_EQ(result.num_completed, 1);
  EXPECT_EQ(result.num_output_tokens, 5);
  EXPECT_NEAR(result.first_token.max, 0.010, 1e-9);
  EXPECT_NEAR(result.per_output_token.max, 0.010, 1e-9);
  EXPECT_NEAR(result.end_to_end.max, 0.050, 1e-9);
  EXPECT_NEAR(result.mean_in_flight, 0.050, 1e-9);
  EXPECT_EQ(result.steps.num_steps, 5);
}

TEST(SimulationTest, ARequestThatComesDuringAStepWaitsForItsEnd) {
  Config config = TenMillisecondConfig("DP1");
  config.requests = {At(0, 100, 5), At(0.003, 100, 1)};
  const Result result = Simulated(config);
  // It joins the second step, from 10 to 20 ms.
  EXPECT_NEAR(result.first_token.max, 0.017, 1e-9);
  EXPECT_EQ(result.steps.num_steps, 5);
}

TEST(SimulationTest, APromptLongerThanAStepTakesSeveral) {
  Config config = TenMillisecondConfig("DP1");
  config.limits.max_step_tokens = 64;
  config.requests = {At(0, 150, 1)};
  EXPECT_NEAR(Simulated(config).first_token.max, 0.030, 1e-9);
}

TEST(SimulationTest, SequencesWaitWhileAsManyAsMayRunDo) {
  Config config = TenMillisecondConfig("DP1");
  config.limits.max_sequences = 1;
  config.requests = {At(0, 10, 4), At(0, 10, 2)};
  const Result result = Simulated(config);
  EXPECT_NEAR(result.end_to_end.max, 0.060, 1e-9);
  EXPECT_NEAR(result.first_token.max, 0.050, 1e-9);
}

TEST(SimulationTest, AFullQueueRefuses) {
  Config config = TenMillisecondConfig("DP1");
  config.limits.max_sequences = 1;
  config.limits.max_queue = 2;
  for (int i = 0; i < 5; ++i) config.requests.push_back(At(0, 10, 4));
  const Result result = Simulated(config);
  EXPECT_EQ(result.num_completed, 3);
  EXPECT_EQ(result.num_rejected, 2);
}

TEST(SimulationTest, APromptThatIsLongerThanTheContextIsRefused) {
  Config config = TenMillisecondConfig("DP1");
  config.requests = {At(0, 5000, 1), At(0, 100, 1)};
  const Result result = Simulated(config);
  EXPECT_EQ(result.num_too_long, 1);
  EXPECT_EQ(result.num_completed, 1);
}

TEST(SimulationTest, TwoGroupsShareTheRequests) {
  Config config = TenMillisecondConfig("DP2");
  config.limits.max_sequences = 1;
  config.requests = {At(0, 10, 4), At(0, 10, 4)};
  EXPECT_NEAR(Simulated(config).end_to_end.max, 0.040, 1e-9);
}

TEST(SimulationTest, NoRequestsAreAnEmptyRun) {
  const Result result = Simulated(TenMillisecondConfig("EP4_TP1_PP1_DP1"));
  EXPECT_EQ(result.num_arrived, 0);
  EXPECT_EQ(result.steps.num_steps, 0);
  EXPECT_DOUBLE_EQ(result.total_seconds, 1);
  EXPECT_GT(result.startup_seconds, 5);
}

// ---- Against the planner ----

TEST(SimulationTest, AlonePassesTakeWhatThePlannerSays) {
  for (const char* layout : {"DP1", "EP8_TP1_PP1_DP1", "EP64_TP1_PP1_DP1",
                             "EP64_TP1_PP1_DP1+all-to-all", "EP8_TP1_PP1_DP1+replicated"}) {
    Config config = OlmoeConfig(layout, {}, absl::Seconds(1));
    config.requests = {At(0, 512, 128)};
    const Result result = Simulated(config);
    const planner::Prediction prediction =
        planner::PredictAt(config.scenario, config.layout, /*sequences=*/1);
    EXPECT_NEAR(result.first_token.max, prediction.first_token_seconds,
                0.02 * prediction.first_token_seconds)
        << layout;
    EXPECT_NEAR(result.per_output_token.max, prediction.forward.total_seconds(),
                0.01 * prediction.forward.total_seconds())
        << layout;
  }
}

TEST(SimulationTest, AFullBatchDecodesInThePassThatThePlannerSays) {
  Config config = OlmoeConfig("EP64_TP1_PP1_DP1", {}, absl::Seconds(1));
  config.requests.clear();
  // All prompts fit one step, and all decode in all steps after it.
  for (int i = 0; i < 960; ++i) config.requests.push_back(At(0, 4, 512));
  config.scenario.input_tokens = 4;
  config.scenario.output_tokens = 512;
  const Result result = Simulated(config);
  // The step that the first one begins does not wait for the others, which come at the same time.
  EXPECT_EQ(result.steps.num_steps, 513);
  const planner::Prediction prediction =
      planner::PredictAt(config.scenario, config.layout, /*sequences=*/960);
  EXPECT_NEAR(result.between_tokens.p50, prediction.forward.total_seconds(),
              0.03 * prediction.forward.total_seconds());
}

// ---- Laws ----

TEST(SimulationTest, TheSameSeedGivesTheSameBytes) {
  const Arrivals arrivals{.per_second = 300};
  Config config = OlmoeConfig("EP8_TP1_PP1_DP4", arrivals, absl::Seconds(4), 9);
  config.failures = {{.at = absl::Seconds(1), .index = 9}};
  const std::string once = Everything(Simulated(config));
  EXPECT_EQ(once, Everything(Simulated(config)));
  Config other = OlmoeConfig("EP8_TP1_PP1_DP4", arrivals, absl::Seconds(4), 10);
  other.failures = config.failures;
  EXPECT_NE(once, Everything(Simulated(other)));
}

TEST(SimulationTest, EveryRequestThatArrivesIsAnsweredOrRefused) {
  for (const double rate : {10.0, 300.0, 3000.0}) {
    Config config = OlmoeConfig("EP8_TP1_PP1_DP2", {.per_second = rate}, absl::Seconds(3));
    config.limits.max_sequences = 64;
    config.limits.max_queue = 32;
    const Result result = Simulated(config);
    EXPECT_EQ(result.num_arrived, static_cast<int64_t>(config.requests.size()));
    EXPECT_EQ(result.num_arrived,
              result.num_completed + result.num_rejected + result.num_in_flight);
    EXPECT_EQ(result.num_in_flight, 0);
    EXPECT_EQ(result.num_output_tokens, 32 * result.num_completed);
    EXPECT_EQ(rate > 1000, result.num_rejected > 0) << rate;
    EXPECT_LE(result.kv_usage.max, 1);
    EXPECT_LE(result.running.max, 64);
  }
}

// L = lambda W: those who wait, their rate and how long each waits are counted apart.
TEST(SimulationTest, LittlesLawHolds) {
  for (const double rate : {50.0, 400.0}) {
    const Config config = OlmoeConfig("EP8_TP1_PP1_DP1", {.per_second = rate}, absl::Seconds(30));
    const Result result = Simulated(config);
    const double expected = static_cast<double>(result.num_arrived) / 30 * result.end_to_end.mean;
    EXPECT_NEAR(result.mean_in_flight, expected, 0.02 * expected) << rate;
  }
}

TEST(SimulationTest, FasterLinksAreNeverSlower) {
  double before = 1e9;
  for (const double gigabits : {50, 100, 200, 400, 800}) {
    Config config = OlmoeConfig("EP64_TP1_PP1_DP1", {.per_second = 500}, absl::Seconds(2));
    config.scenario.network.link_bytes_per_second = gigabits * 1e9 / 8;
    const double median = Simulated(config).end_to_end.p50;
    EXPECT_LE(median, before) << gigabits;
    before = median;
  }
}

TEST(SimulationTest, MoreLoadIsNeverFaster) {
  double before = 0;
  for (const double rate : {10, 100, 1000}) {
    const Result result =
        Simulated(OlmoeConfig("EP8_TP1_PP1_DP1", {.per_second = rate}, absl::Seconds(3)));
    EXPECT_GT(result.per_output_token.p50, before) << rate;
    before = result.per_output_token.p50;
  }
}

TEST(SimulationTest, ARouterWithFavouritesMakesStepsLonger) {
  Config config = OlmoeConfig("EP64_TP1_PP1_DP1", {.per_second = 5000}, absl::Seconds(1));
  const Result uniform = Simulated(config);
  config.router = {.kind = RouterSpec::Kind::kZipf, .exponent = 1.1};
  const Result skewed = Simulated(config);
  const auto traffic = [](const Result& result) {
    return result.steps.traffic / static_cast<double>(result.steps.num_steps);
  };
  EXPECT_GT(traffic(skewed), 1.5 * traffic(uniform));
  EXPECT_GT(skewed.steps.expert_seconds / static_cast<double>(skewed.steps.num_steps),
            uniform.steps.expert_seconds / static_cast<double>(uniform.steps.num_steps));
  EXPECT_GT(skewed.per_output_token.p50, uniform.per_output_token.p50);
}

TEST(SimulationTest, PartsOfTheStepsAddUpToTheirTime) {
  const Result result =
      Simulated(OlmoeConfig("EP8_TP1_PP1_DP1", {.per_second = 100}, absl::Seconds(2)));
  const StepTotals& s = result.steps;
  EXPECT_NEAR(s.attention_seconds + s.kv_seconds + s.dense_seconds + s.expert_seconds +
                  s.head_seconds + s.exchange_seconds + s.tensor_seconds + s.host_seconds -
                  s.hidden_seconds,
              s.seconds, 1e-9);
  EXPECT_LT(s.seconds, result.group_seconds);
}

TEST(SimulationTest, MeasuredStepTimesStandForThePlanners) {
  Config config = TenMillisecondConfig("EP64_TP1_PP1_DP1+A1");
  config.step_times = {.decode = {{1, 0.002}, {2, 0.003}}, .prefill = {{1, 0.001}, {101, 0.021}}};
  config.requests = {At(0, 101, 3)};
  const Result result = Simulated(config);
  EXPECT_NEAR(result.first_token.max, 0.021, 1e-9);
  EXPECT_NEAR(result.end_to_end.max, 0.025, 1e-9);
  EXPECT_NEAR(result.steps.measured_seconds, 0.025, 1e-9);
  config.step_times->decode.clear();
  EXPECT_TRUE(absl::IsInvalidArgument(Simulate(config, nullptr).status()));
}

// ---- What can't be simulated ----

TEST(SimulationTest, WhatCannotBeSimulatedIsRefused) {
  struct Case {
    const char* layout;
    const char* message;
  };
  for (const Case& c :
       {Case{"EP8_TP1_PP2_DP1", "can't be simulated"},
        Case{"EP8_TP1_PP1_DP1+C2", "can't be simulated"},
        Case{"EP8_TP1_PP1_DP1+S1", "can't be simulated"}, Case{"EP48_TP1_PP1_DP1", "48"}}) {
    Config config = TenMillisecondConfig(c.layout);
    EXPECT_THAT(Simulate(config, nullptr).status().message(), HasSubstr(c.message)) << c.layout;
  }
  Config config = TenMillisecondConfig("EP8_TP1_PP1_DP1");
  config.failures = {{.at = config.duration, .index = 7}};
  EXPECT_THAT(Simulate(config, nullptr).status().message(), HasSubstr("let it fail earlier"));
  config.failures = {{.index = 8}};
  EXPECT_TRUE(absl::IsInvalidArgument(Simulate(config, nullptr).status()));
}

TEST(SimulationTest, ProgressIsToldOnceASecond) {
  Config config = TenMillisecondConfig("DP2");
  config.duration = absl::Seconds(5);
  config.requests = {At(0.5, 10, 10)};
  int calls = 0;
  int64_t ended = 0;
  ASSERT_TRUE(Simulate(config, [&](const Progress& progress) {
                ++calls;
                ended = progress.num_ended;
              }).ok());
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(ended, 1);
}

}  // namespace
}  // namespace moe::simulator
