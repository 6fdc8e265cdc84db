#include "planner/founding.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

const FoundingTarget& Find(const FoundingReport& report, TargetKind kind) {
  for (const FoundingTarget& target : report.targets) {
    if (target.kind == kind) return target;
  }
  ADD_FAILURE() << "no such target";
  return report.targets.front();
}

FoundingReport Evaluate(const Scenario& scenario) {
  const auto report = EvaluateFounding(scenario, {SlowLibrary(), FastLibrary()});
  EXPECT_TRUE(report.ok()) << report.status();
  return *report;
}

TEST(FoundingTest, SixTargetsAreTriedInEveryWayThatCanWork) {
  const FoundingReport report = Evaluate(OlmoeOn(64));
  ASSERT_EQ(report.targets.size(), 6);
  // As founded, slots, exact counts, the fast library with and without overlap, NVLink, replicas.
  ASSERT_EQ(report.attempts.size(), 7);
  EXPECT_EQ(LayoutName(report.attempts.front().layout), "EP64_TP1_PP1_DP1+replicated");
  EXPECT_EQ(LayoutName(report.attempts.back().layout), "EP1_TP1_PP1_DP64");
  for (const FoundingTarget& target : report.targets) {
    EXPECT_EQ(target.outcomes.size(), 7);
    for (const Outcome& outcome : target.outcomes) {
      EXPECT_EQ(outcome.met, target.kind == TargetKind::kTime ? outcome.value <= target.goal
                                                              : outcome.value >= target.goal);
    }
  }
}

TEST(FoundingTest, AsFoundedEveryGpuReadsEveryCacheAndMissesEightMilliseconds) {
  const FoundingReport report = Evaluate(OlmoeOn(64));
  const FoundingTarget& time = Find(report, TargetKind::kTime);
  EXPECT_FALSE(time.outcomes[0].met);
  EXPECT_EQ(report.attempts[0].prediction->forward.main_limit(), Limit::kKvReads);
  ASSERT_NE(time.first_met(), nullptr);
  EXPECT_FALSE(report.attempts[time.first_met()->attempt].layout.replicated_attention);
}

TEST(FoundingTest, TheVerdictFollowsTheHardware) {
  Scenario scenario = OlmoeOn(64);
  scenario.device.memory_bytes_per_second *= 10;
  scenario.network.link_bytes_per_second *= 10;
  const FoundingReport report = Evaluate(scenario);
  EXPECT_TRUE(Find(report, TargetKind::kTime).outcomes[0].met);
  scenario.device.memory_bytes_per_second /= 1000;
  const FoundingReport slow = Evaluate(scenario);
  EXPECT_EQ(Find(slow, TargetKind::kTime).first_met(), nullptr);
  EXPECT_EQ(Find(slow, TargetKind::kRate).best().value, 0);
}

TEST(FoundingTest, RatesAreThoseOfPassesThatAreShortEnough) {
  const FoundingReport report = Evaluate(OlmoeOn(64));
  for (const Outcome& outcome : Find(report, TargetKind::kRate).outcomes) {
    const Attempt& attempt = report.attempts[outcome.attempt];
    Scenario scenario = attempt.scenario;
    scenario.batch.reset();
    scenario.target = {Target::Kind::kTimeAtMost, kFoundingSeconds};
    const Prediction p = Predict(scenario, attempt.layout).value();
    EXPECT_EQ(outcome.value, p.meets_target ? p.sequences_per_second : 0) << attempt.change;
  }
}

TEST(FoundingTest, TheBatchThatReachesAShareIsTheLeastOfItsGrid) {
  const FoundingReport report = Evaluate(OlmoeOn(64));
  int found = 0;
  for (const Outcome& outcome : Find(report, TargetKind::kMemory).outcomes) {
    if (!outcome.batch_that_meets.has_value()) continue;
    ++found;
    const Attempt& attempt = report.attempts[outcome.attempt];
    Scenario scenario = attempt.scenario;
    scenario.batch = *outcome.batch_that_meets;
    const Prediction p = Predict(scenario, attempt.layout).value();
    EXPECT_GE(p.memory_efficiency.unique_share, kFoundingMemoryEfficiency);
    EXPECT_NEAR(p.forward.total_seconds(), outcome.seconds_there, 1e-12);
    scenario.batch = *outcome.batch_that_meets * 0.9;
    EXPECT_LT(Predict(scenario, attempt.layout)->memory_efficiency.unique_share,
              kFoundingMemoryEfficiency);
  }
  EXPECT_GT(found, 0);
}

TEST(FoundingTest, OneRankGainsNothingOverSequentialExperts) {
  const FoundingReport report = Evaluate(OlmoeOn(64));
  EXPECT_NEAR(Find(report, TargetKind::kSpeedup).outcomes.back().value, 1, 1e-9);
  EXPECT_GT(Find(report, TargetKind::kSpeedup).best().value, 1);
}

TEST(FoundingTest, AModelThatDoesNotFitIsRefused) {
  Scenario scenario = OlmoeOn(1);
  scenario.model = DeepSeekV3();
  EXPECT_FALSE(EvaluateFounding(scenario, {}).ok());
}

}  // namespace
}  // namespace moe::planner
