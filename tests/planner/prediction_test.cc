#include "planner/prediction.h"

#include <cmath>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/feasibility.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

using ::testing::HasSubstr;

Prediction PredictFor(const Scenario& scenario, const char* layout) {
  const auto prediction = Predict(scenario, ParseLayout(layout).value());
  EXPECT_TRUE(prediction.ok()) << prediction.status();
  return *prediction;
}

TEST(PredictionTest, TargetsAreReadAndOthersRefused) {
  struct Row {
    const char* text;
    Target::Kind kind;
    double value;
  };
  for (const Row& row :
       {Row{"throughput", Target::Kind::kThroughput, 0}, Row{"latency", Target::Kind::kLatency, 0},
        Row{"8ms", Target::Kind::kTimeAtMost, 0.008}, Row{"0.5s", Target::Kind::kTimeAtMost, 0.5},
        Row{"120000seq/s", Target::Kind::kRateAtLeast, 120000}}) {
    const auto target = ParseTarget(row.text);
    ASSERT_TRUE(target.ok()) << row.text;
    EXPECT_EQ(target->kind, row.kind);
    EXPECT_NEAR(target->value, row.value, 1e-12);
  }
  for (const char* text : {"", "fast", "ms", "-8ms", "0ms", "nan ms", "inf s", "1e30seq/s", "8"}) {
    EXPECT_FALSE(ParseTarget(text).ok()) << text;
  }
}

TEST(PredictionTest, TheTargetDecidesTheBatch) {
  Scenario scenario = OlmoeOn(64);
  const Prediction most = PredictFor(scenario, "EP64");
  // A MoEDeployment runs no more in one group.
  EXPECT_GT(most.max_sequences, 65536);
  EXPECT_EQ(most.sequences, 65536);

  scenario.target = {Target::Kind::kLatency, 0};
  EXPECT_EQ(PredictFor(scenario, "EP64").sequences, 64);
  EXPECT_EQ(PredictFor(scenario, "DP64").sequences, 1);

  scenario.target = {Target::Kind::kTimeAtMost, 0.008};
  const Prediction in_time = PredictFor(scenario, "EP64");
  EXPECT_TRUE(in_time.meets_target);
  EXPECT_LE(in_time.forward.total_seconds(), 0.008);
  EXPECT_GT(ForwardSecondsAt(scenario, in_time.layout, static_cast<double>(in_time.sequences) + 1),
            0.008);

  scenario.target = {Target::Kind::kRateAtLeast, 50000};
  const Prediction at_rate = PredictFor(scenario, "EP64");
  EXPECT_TRUE(at_rate.meets_target);
  EXPECT_GE(at_rate.sequences_per_second, 50000);
  EXPECT_LT(at_rate.forward.total_seconds(), most.forward.total_seconds());

  scenario.target = {Target::Kind::kTimeAtMost, 1e-6};
  const Prediction impossible = PredictFor(scenario, "EP64");
  EXPECT_FALSE(impossible.meets_target);
  EXPECT_EQ(impossible.sequences, 1);
}

TEST(PredictionTest, ABatchIsSharedByTheGroupsAndCountedOnce) {
  Scenario scenario = OlmoeOn(64);
  scenario.batch = 100;
  const Prediction replicas = PredictFor(scenario, "DP64");
  EXPECT_EQ(replicas.sequences, 2);
  EXPECT_NEAR(replicas.sequences_per_second, 100 / replicas.forward.total_seconds(), 1e-6);
  scenario.batch = 1e9;
  const auto too_many = Predict(scenario, Founding());
  EXPECT_THAT(std::string(too_many.status().message()), HasSubstr("sequences of 640 tokens"));
}

TEST(PredictionTest, RequestsTakeTheirPromptAndTheirSteps) {
  Scenario scenario = OlmoeOn(1);
  scenario.batch = 32;
  const Prediction p = PredictFor(scenario, "DP1");
  const double seconds = p.prefill_seconds + 128 * p.forward.total_seconds() / 32;
  EXPECT_NEAR(p.completed_per_second, 1 / seconds, 1e-9);
  EXPECT_NEAR(p.output_tokens_per_second, 128 / seconds, 1e-6);
  EXPECT_LT(p.output_tokens_per_second, p.sequences_per_second);
  EXPECT_NEAR(CostPerMillionTokens(scenario, p, 3.6), 1000 / p.output_tokens_per_second, 1e-9);
}

TEST(PredictionTest, ABetterMachineIsNeverSlower) {
  struct Row {
    const char* what;
    std::function<void(Scenario*)> improve;
  };
  for (const char* layout :
       {"EP64", "EP64+A8", "EP64+all-to-all", "EP64+replicated", "EP64+replicated+reduce",
        "EP64+gather-scatter", "EP8_TP8", "EP16_TP2_PP2", "DP64", "EP64+C2"}) {
    for (const double batch : {1.0, 64.0, 960.0}) {
      Scenario scenario = OlmoeOn(64);
      scenario.batch = batch;
      const double before = PredictFor(scenario, layout).forward.total_seconds();
      for (const Row& row :
           {Row{"memory", [](Scenario* s) { s->device.memory_bytes_per_second *= 2; }},
            Row{"operations", [](Scenario* s) { s->device.bf16_flops *= 2; }},
            Row{"link", [](Scenario* s) { s->network.link_bytes_per_second *= 2; }},
            Row{"node link", [](Scenario* s) { s->device.node_link_bytes_per_second *= 2; }},
            Row{"library", [](Scenario* s) { s->network.library = FastLibrary(); }},
            Row{"overlap", [](Scenario* s) { s->assumptions.overlap = Overlap::kHalfBatches; }}}) {
        Scenario better = scenario;
        row.improve(&better);
        EXPECT_LE(PredictFor(better, layout).forward.total_seconds(), before * (1 + 1e-12))
            << layout << " with more " << row.what;
      }
    }
  }
}

TEST(PredictionTest, MoreSequencesOrLongerOnesNeverMakeAPassShorter) {
  for (const char* layout : {"EP64", "EP64+all-to-all", "EP64+replicated", "DP64", "EP8_TP8"}) {
    Scenario scenario = OlmoeOn(64);
    double previous = 0;
    for (double sequences = 1; sequences <= 4096; sequences = std::ceil(sequences * 1.3)) {
      const double now = ForwardSecondsAt(scenario, ParseLayout(layout).value(), sequences);
      EXPECT_GE(now, previous * (1 - 1e-9)) << layout << " " << sequences;
      previous = now;
    }
    previous = 0;
    for (const int tokens : {64, 256, 1024, 3000}) {
      scenario.input_tokens = tokens;
      const double now = ForwardSecondsAt(scenario, ParseLayout(layout).value(), 256);
      EXPECT_GE(now, previous) << layout;
      previous = now;
    }
  }
}

TEST(PredictionTest, ScenariosThatMakeNoSenseAreNamed) {
  struct Row {
    std::function<void(Scenario*)> change;
    const char* message;
  };
  for (const Row& row :
       {Row{[](Scenario* s) { s->num_gpus = 0; }, "number of GPUs is 0"},
        Row{[](Scenario* s) { s->input_tokens = 4090; },
            "4090 input and 128 output tokens are more than the 4096 positions"},
        Row{[](Scenario* s) { s->output_tokens = 0; }, "output tokens is 0"},
        Row{[](Scenario* s) { s->batch = 0; }, "batch is 0"},
        Row{[](Scenario* s) { s->network.gpus_per_node = 0; }, "GPUs per node is 0"},
        Row{[](Scenario* s) { s->network.link_bytes_per_second = 0; }, "link's bytes"},
        Row{[](Scenario* s) { s->model.top_k = 0; }, "experts per token is 0"}}) {
    Scenario scenario = OlmoeOn(64);
    row.change(&scenario);
    EXPECT_THAT(std::string(CheckScenario(scenario).message()), HasSubstr(row.message));
  }
}

}  // namespace
}  // namespace moe::planner
