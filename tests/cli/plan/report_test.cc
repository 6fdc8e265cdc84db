#include "cli/plan/report.h"

#include "cli/plan/founding_report.h"
#include "cli/plan/json_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/feasibility.h"
#include "tests/planner/scenarios.h"

namespace moe::cli {
namespace {

using planner::ParseLayout;
using planner::Scenario;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(ReportTest, ASearchShowsTheBestWithItsFiguresAndSaysThatNothingIsMeasured) {
  const Scenario scenario = planner::OlmoeOn(64);
  const auto result = planner::Search(scenario);
  ASSERT_TRUE(result.ok());
  const std::string text = FormatSearch(scenario, *result, {.num_layouts = 3});
  for (size_t i = 0; i < 3; ++i) {
    const planner::Prediction& p = result->ranked[i];
    EXPECT_THAT(text, HasSubstr(LayoutName(p.layout)));
    EXPECT_THAT(text, HasSubstr(planner::WithThousands(p.sequences_per_second)));
    EXPECT_THAT(text, HasSubstr(DescribeLimit(p.forward.main_limit())));
  }
  EXPECT_THAT(text, HasSubstr("Predicted, not measured: nothing here is calibrated"));
  EXPECT_THAT(text, HasSubstr("No worker has run on a GPU yet"));
  EXPECT_THAT(text, HasSubstr("assumed, without a source"));
  EXPECT_THAT(text, Not(HasSubstr("$/M tok")));
  EXPECT_THAT(FormatSearch(scenario, *result, {.price = 2.0}), HasSubstr("$/M tok"));
}

TEST(ReportTest, WhetherReplicasWinIsSaidWithBothFigures) {
  Scenario scenario = planner::OlmoeOn(64);
  const auto layouts = {planner::Founding(), ParseLayout("DP64").value()};
  auto result = planner::Rank(scenario, layouts);
  ASSERT_TRUE(result.ok());
  const bool replicas_first = result->ranked.front().layout.expert == 1;
  EXPECT_THAT(FormatSearch(scenario, *result, {}),
              HasSubstr(replicas_first ? "Plain replicas serve this target better"
                                       : "Expert parallelism serves this target better"));
  scenario.target = {planner::Target::Kind::kLatency, 0};
  scenario.network.library = planner::FastLibrary();
  scenario.network.gpus_per_node = 64;
  result = planner::Rank(scenario, layouts);
  EXPECT_EQ(result->ranked.front().layout, planner::Founding());
  EXPECT_THAT(FormatSearch(scenario, *result, {}),
              HasSubstr("Expert parallelism serves this target better"));
}

TEST(ReportTest, WhatCannotWorkIsListed) {
  const auto result =
      planner::Rank(planner::OlmoeOn(64), {ParseLayout("EP64_TP16_PP4_DP4").value()});
  EXPECT_THAT(FormatSearch(planner::OlmoeOn(64), *result, {}),
              HasSubstr("- EP64 x TP16 x PP4 x DP4 needs 16,384 GPUs where 64 exist"));
}

TEST(ReportTest, AComparisonNamesEachCrossover) {
  Scenario scenario = planner::OlmoeOn(64);
  scenario.network.library = planner::FastLibrary();
  const auto comparison =
      planner::Compare(scenario, {planner::Founding(), ParseLayout("DP64").value()});
  ASSERT_TRUE(comparison.ok());
  const std::string text = FormatComparison(scenario, *comparison, {});
  int crossovers = 0;
  for (const planner::Sweep& sweep : comparison->sweeps) {
    for (const planner::Crossover& crossover : sweep.crossovers) {
      ++crossovers;
      EXPECT_THAT(text,
                  HasSubstr(LayoutName(comparison->predictions[crossover.to].layout) +
                            (crossover.out_of_memory ? ", past the memory of" : ", overtaking")));
    }
  }
  EXPECT_GT(crossovers, 0);
}

TEST(ReportTest, TheFoundingReportHasAVerdictForEachTarget) {
  const Scenario scenario = planner::OlmoeOn(64);
  const auto report = planner::EvaluateFounding(scenario, {planner::FastLibrary()});
  ASSERT_TRUE(report.ok());
  const std::string text = FormatFounding(scenario, *report);
  size_t verdicts = 0;
  for (size_t at = text.find("=> "); at != std::string::npos; at = text.find("=> ", at + 1)) {
    ++verdicts;
  }
  EXPECT_EQ(verdicts, report->targets.size());
  EXPECT_THAT(text, HasSubstr("a forward pass in 8.00 ms"));
  EXPECT_THAT(text, HasSubstr("120,000 seq/s"));
}

TEST(ReportTest, JsonHasEveryLayoutInBaseUnits) {
  const Scenario scenario = planner::OlmoeOn(64);
  const auto result = planner::Search(scenario);
  const nlohmann::json json = SearchToJson(scenario, *result, 2.0);
  ASSERT_EQ(json["ranked"].size(), result->ranked.size());
  const planner::Prediction& best = result->ranked.front();
  EXPECT_EQ(json["ranked"][0]["layout"], LayoutName(best.layout));
  EXPECT_EQ(json["ranked"][0]["forward_seconds"]["total"], best.forward.total_seconds());
  EXPECT_EQ(json["ranked"][0]["memory_bytes"]["total"], best.memory.total_bytes());
  EXPECT_EQ(json["ranked"][0]["cost_per_million_output_tokens"],
            CostPerMillionTokens(scenario, best, 2.0));
  EXPECT_EQ(json["scenario"]["calibrated"], false);
  EXPECT_EQ(json["refused"].size(), result->refused.size());
}

}  // namespace
}  // namespace moe::cli
