#include "planner/forward_time.h"

#include <numeric>

#include "gtest/gtest.h"
#include "planner/balance.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

ForwardTime Decode(const Scenario& scenario, const char* layout, double sequences, double context) {
  const Layout parsed = ParseLayout(layout).value();
  return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                       parsed, DecodeRows(parsed, sequences, context));
}

Scenario IdealOlmoe() {
  Scenario scenario = OlmoeOn(64);
  scenario.assumptions = IdealAssumptions();
  scenario.assumptions.overlap = Overlap::kNone;
  return scenario;
}

TEST(ForwardTimeTest, ThePublishedRooflineOfOneH200IsReproduced) {
  struct Row {
    double batch;
    double weights_gb;
    double kv_gb;
    double milliseconds;
    double tokens_per_second;
  };
  const Scenario scenario = IdealOlmoe();
  const ModelShape& model = scenario.model;
  for (const Row& row : {Row{1, 2.36, 0.07, 0.51, 1980}, Row{8, 9.20, 0.54, 2.03, 3940},
                         Row{64, 13.63, 4.29, 3.73, 17100}, Row{256, 13.63, 17.2, 6.51, 39400},
                         Row{1024, 13.63, 68.7, 18.0, 57000}}) {
    const ForwardTime time = Decode(scenario, "DP1", row.batch, 512);
    EXPECT_NEAR(time.total_seconds() * 1e3, row.milliseconds, row.milliseconds * 0.01) << row.batch;
    EXPECT_NEAR(row.batch / time.total_seconds(), row.tokens_per_second,
                row.tokens_per_second * 0.01);
    const double dense =
        16 * (static_cast<double>(model.attention_params + model.router_params())) +
        static_cast<double>(model.vocab_params());
    EXPECT_NEAR(dense * 2 / 1e6, 747, 1);
    const double weights =
        dense * 2 + 16 * ExpectedDistinctExperts(64, 8, row.batch) * model.expert_bytes();
    EXPECT_NEAR(weights / 1e9, row.weights_gb, 0.01) << row.batch;
    EXPECT_NEAR(row.batch * 512 * model.kv_bytes_per_token() / 1e9, row.kv_gb, row.kv_gb * 0.05);
  }
}

TEST(ForwardTimeTest, KnownTrafficStandsForTheExpectedOne) {
  const Scenario scenario = OlmoeOn(64);
  StepRows rows = DecodeRows(Founding(), 65536, 512);  // so many that experts wait for compute
  const auto time = [&] {
    return TimeOfForward(scenario.model, scenario.device, scenario.network, scenario.assumptions,
                         Founding(), rows);
  };
  const ForwardTime expected = time();
  rows.traffic_max_over_mean = expected.traffic_max_over_mean;
  EXPECT_EQ(time().total_seconds(), expected.total_seconds());
  rows.traffic_max_over_mean = 8;
  EXPECT_EQ(time().traffic_max_over_mean, 8);
  EXPECT_GT(time().expert_seconds, expected.expert_seconds);
  EXPECT_EQ(time().exchange_seconds(), expected.exchange_seconds());
}

TEST(ForwardTimeTest, FlopsOfATokenAreTwiceItsParametersAndItsContext) {
  EXPECT_NEAR(2.0 * static_cast<double>(Olmoe1b7b().active_params()) / 1e9, 2.358, 0.002);
  EXPECT_EQ(16 * Olmoe1b7b().attention_flops_per_kv, 131072);
}

TEST(ForwardTimeTest, ReplicatedAttentionReads13Point4MillisecondsOfKvFor960Sequences) {
  EXPECT_NEAR(Decode(IdealOlmoe(), "EP64+replicated", 960, 512).kv_seconds * 1e3, 13.4, 0.05);
  EXPECT_NEAR(Decode(IdealOlmoe(), "EP64", 960, 512).kv_seconds * 1e3, 13.4 / 64, 0.05 / 64);
}

TEST(ForwardTimeTest, AFoundingRankReadsItsOneExpertOfEachLayer) {
  // 960 x 8 / 64 = 120 rows on average; the memory is still slower than the tensor cores.
  const ForwardTime time = Decode(IdealOlmoe(), "EP64", 960, 512);
  EXPECT_NEAR(time.mean_expert_seconds, 16 * 12582912 / 4.8e12, 1e-9);
  EXPECT_GE(time.expert_seconds, time.mean_expert_seconds);
}

TEST(ForwardTimeTest, EveryPartIsInTheTotalAndInOneLimit) {
  Scenario scenario = OlmoeOn(64);
  for (const Overlap overlap : {Overlap::kNone, Overlap::kHalfBatches, Overlap::kFree}) {
    scenario.assumptions.overlap = overlap;
    for (const char* layout : {"EP64", "EP64+replicated", "EP64+all-to-all+A8", "EP8_TP4_PP2",
                               "DP64", "EP64+replicated+reduce", "EP16+gather-scatter"}) {
      const ForwardTime time = Decode(scenario, layout, 512, 1000);
      const double limits = std::accumulate(time.by_limit.begin(), time.by_limit.end(), 0.0);
      EXPECT_NEAR(limits, time.total_seconds() + time.hidden_seconds, 1e-12) << layout;
      EXPECT_GT(time.total_seconds(), 0);
      EXPECT_LE(time.busy_seconds, time.total_seconds() + 1e-12) << layout;
      if (overlap != Overlap::kHalfBatches) {
        EXPECT_EQ(time.hidden_seconds > 0, overlap == Overlap::kFree && time.exchange_seconds() > 0)
            << layout;
      }
    }
  }
}

TEST(ForwardTimeTest, WhatLimitsAPassIsNamed) {
  Scenario scenario = IdealOlmoe();
  EXPECT_EQ(Decode(scenario, "DP1", 1, 512).main_limit(), Limit::kWeightReads);
  EXPECT_EQ(Decode(scenario, "DP1", 1024, 512).main_limit(), Limit::kKvReads);
  EXPECT_EQ(Decode(scenario, "EP64", 8, 512).main_limit(), Limit::kLatency);
  scenario.network.library = {};
  scenario.network.link_bytes_per_second = 1e9;
  EXPECT_EQ(Decode(scenario, "EP64", 8192, 512).main_limit(), Limit::kNetworkBytes);
  scenario.assumptions.step_host_seconds = 1;
  EXPECT_EQ(Decode(scenario, "EP64", 8, 512).main_limit(), Limit::kHost);
  const Layout whole;
  EXPECT_EQ(TimeOfForward(scenario.model, scenario.device, scenario.network, IdealAssumptions(),
                          whole, PrefillRows(whole, 4096, 512))
                .main_limit(),
            Limit::kCompute);
}

TEST(ForwardTimeTest, CountsThatTheHostMustReadCostItsTime) {
  Scenario scenario = OlmoeOn(64);
  const double captured = Decode(scenario, "EP64", 64, 512).host_seconds;
  const double eager = Decode(scenario, "EP64+all-to-all", 64, 512).host_seconds;
  EXPECT_NEAR(eager - captured, 16 * (60e-6 - 15e-6), 1e-9);
  scenario.network.library = FastLibrary();
  EXPECT_EQ(Decode(scenario, "EP64+all-to-all", 64, 512).host_seconds, captured);
}

TEST(ForwardTimeTest, HalfBatchesReadTheWeightsTwiceAndAreTakenWhereTheyHelp) {
  Scenario scenario = OlmoeOn(64);
  const ForwardTime small = Decode(scenario, "EP64+all-to-all", 64, 512);
  const ForwardTime large = Decode(scenario, "EP64+all-to-all", 65536, 512);
  scenario.assumptions.overlap = Overlap::kHalfBatches;
  // One row for each owner can't be halved, and latency is all that there is to hide.
  EXPECT_EQ(Decode(scenario, "EP64+all-to-all", 64, 512).total_seconds(), small.total_seconds());
  const ForwardTime halves = Decode(scenario, "EP64+all-to-all", 65536, 512);
  EXPECT_LT(halves.total_seconds(), large.total_seconds());
  EXPECT_EQ(halves.host_seconds, 2 * large.host_seconds);
  EXPECT_GT(halves.by_limit[static_cast<size_t>(Limit::kLatency)],
            large.by_limit[static_cast<size_t>(Limit::kLatency)]);
}

TEST(ForwardTimeTest, StagesWorkOnTheirShareOfTheSequences) {
  const StepRows rows = DecodeRows(ParseLayout("EP4_PP4").value(), 64, 100);
  EXPECT_EQ(rows.rows, 16);
  EXPECT_EQ(rows.rows_per_owner, 4);
  EXPECT_EQ(rows.kv_reads, 400);
}

TEST(ForwardTimeTest, OnePromptLiesOnOneOwner) {
  const StepRows rows = SinglePromptRows(Founding(), 512);
  EXPECT_EQ(rows.rows, 512);
  EXPECT_EQ(rows.rows_per_owner, 512);
  EXPECT_EQ(rows.logit_rows, 1);
}

TEST(ForwardTimeTest, TensorPartsAddTwoAllReducesToEachLayer) {
  Scenario scenario = IdealOlmoe();
  const ForwardTime time = Decode(scenario, "TP8", 64, 512);
  // 20 us of latency, and 2 x 7/8 of 64 rows of 4,096 bytes at 450 GB/s.
  EXPECT_NEAR(time.tensor_seconds, 32 * (20e-6 + 2 * 7.0 / 8 * 64 * 4096 / 450e9), 1e-9);
  EXPECT_NEAR(time.attention_seconds, Decode(scenario, "DP1", 64, 512).attention_seconds / 8,
              1e-12);
}

}  // namespace
}  // namespace moe::planner
