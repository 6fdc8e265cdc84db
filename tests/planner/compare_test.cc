#include "planner/compare.h"

#include <cmath>

#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

const std::vector<Layout>& Both() {
  static const auto* layouts = new std::vector<Layout>{Founding(), ParseLayout("DP64").value()};
  return *layouts;
}

TEST(CompareTest, AtEveryCrossoverTheFastestChanges) {
  const Scenario scenario = OlmoeOn(64);
  for (const Axis axis : {Axis::kBatch, Axis::kContext, Axis::kLinkSpeed}) {
    const Sweep sweep = axis == Axis::kLinkSpeed
                            ? SweepAxis(scenario, Both(), axis, 1.25e9, 200e9, 65, 4096)
                            : SweepAxis(scenario, Both(), axis, 128, 4096, 65, 960);
    size_t fastest = sweep.best_at_min;
    for (const Crossover& crossover : sweep.crossovers) {
      EXPECT_EQ(crossover.from, fastest);
      const double batch = axis == Axis::kLinkSpeed ? 4096 : 960;
      const auto rate = [&](size_t layout, double value) {
        return RateAt(scenario, Both()[layout], axis, value, batch);
      };
      const double below = axis == Axis::kLinkSpeed ? crossover.value * 0.999 : crossover.value - 1;
      EXPECT_GE(rate(crossover.from, below), rate(crossover.to, below)) << AxisName(axis);
      EXPECT_GT(rate(crossover.to, crossover.value), rate(crossover.from, crossover.value));
      fastest = crossover.to;
    }
  }
}

TEST(CompareTest, AFasterLinkLetsExpertParallelismOvertakeReplicas) {
  Scenario scenario = OlmoeOn(64);
  scenario.network.library = FastLibrary();
  // Replicas use no link, so their rate is a level line that the other one crosses once.
  const Sweep sweep = SweepAxis(scenario, Both(), Axis::kLinkSpeed, 0.05e9, 400e9, 65, 1024);
  EXPECT_EQ(sweep.best_at_min, 1u);
  ASSERT_EQ(sweep.crossovers.size(), 1);
  EXPECT_EQ(sweep.crossovers[0].to, 0u);
  const double replicas = RateAt(scenario, Both()[1], Axis::kLinkSpeed, 1e9, 1024);
  EXPECT_NEAR(RateAt(scenario, Both()[0], Axis::kLinkSpeed, sweep.crossovers[0].value, 1024),
              replicas, replicas * 1e-3);
}

TEST(CompareTest, ALayoutThatRunsOutOfMemoryIsPassedForThatReason) {
  Scenario scenario = OlmoeOn(64);
  scenario.device.memory_bytes = 20e9;
  const std::vector<Layout> layouts = {ParseLayout("EP64+replicated+reduce").value(),
                                       ParseLayout("EP64+gather-scatter").value()};
  const Sweep sweep = SweepAxis(scenario, layouts, Axis::kBatch, 1, 4096, 65, 1);
  ASSERT_FALSE(sweep.crossovers.empty());
  const Crossover& last = sweep.crossovers.back();
  EXPECT_EQ(last.to, 1u);
  EXPECT_EQ(RateAt(scenario, layouts[0], Axis::kBatch, 4096, 1), 0);
  EXPECT_GT(RateAt(scenario, layouts[1], Axis::kBatch, 4096, 1), 0);
}

TEST(CompareTest, AllLayoutsAreComparedAtOneBatchThatEachCanRun) {
  Scenario scenario = OlmoeOn(64);
  const auto comparison = Compare(scenario, Both());
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  ASSERT_EQ(comparison->predictions.size(), 2);
  for (const Prediction& p : comparison->predictions) {
    EXPECT_LE(p.sequences, p.max_sequences);
    EXPECT_NEAR(p.sequences_per_second, comparison->batch / p.forward.total_seconds(), 1e-3);
  }
  ASSERT_EQ(comparison->sweeps.size(), 3);
  scenario.batch = 512;
  EXPECT_EQ(Compare(scenario, Both())->batch, 512);
}

TEST(CompareTest, ALayoutThatCannotWorkIsRefused) {
  EXPECT_FALSE(Compare(OlmoeOn(64), {ParseLayout("EP64_TP16_PP4_DP4").value()}).ok());
  EXPECT_FALSE(Compare(OlmoeOn(64), {}).ok());
}

}  // namespace
}  // namespace moe::planner
