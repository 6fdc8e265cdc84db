#include "planner/search.h"

#include <algorithm>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/feasibility.h"
#include "tests/planner/scenarios.h"

namespace moe::planner {
namespace {

using ::testing::HasSubstr;

std::vector<Target> AllTargets() {
  return {{Target::Kind::kThroughput, 0},
          {Target::Kind::kLatency, 0},
          {Target::Kind::kTimeAtMost, 0.008},
          {Target::Kind::kRateAtLeast, 20000}};
}

TEST(SearchTest, WhatIsRankedKeepsEveryPromise) {
  for (const ModelShape& model : PublishedModels()) {
    for (const int gpus : {1, 6, 64, 512}) {
      for (const Target& target : AllTargets()) {
        Scenario scenario = OlmoeOn(gpus);
        scenario.model = model;
        scenario.target = target;
        const auto result = Search(scenario);
        ASSERT_TRUE(result.ok()) << result.status();
        std::set<std::string> names;
        for (const Prediction& p : result->ranked) {
          const std::string name = LayoutName(p.layout);
          EXPECT_TRUE(names.insert(name).second) << name << " twice";
          EXPECT_EQ(ParseLayout(name).value(), p.layout);
          EXPECT_LE(p.layout.num_gpus(), gpus);
          EXPECT_EQ(model.num_experts * p.layout.copies % p.layout.expert, 0) << name;
          EXPECT_GE(p.sequences, 1);
          EXPECT_LE(p.sequences, p.max_sequences) << name;
          EXPECT_LE(p.memory.total_bytes(), scenario.device.memory_bytes) << name;
          for (const double part :
               {p.memory.attention_bytes, p.memory.vocabulary_bytes, p.memory.dense_bytes,
                p.memory.expert_bytes, p.memory.kv_bytes, p.memory.buffer_bytes}) {
            EXPECT_GE(part, 0) << name;
          }
          EXPECT_GT(p.utilization, 0) << name;
          EXPECT_LE(p.utilization, 1 + 1e-9) << name;
          EXPECT_LE(p.memory_efficiency.unique_share, 1) << name;
          // The chosen plan is never beaten by another of its own table.
          EXPECT_FALSE(IsBetter(target, p, result->ranked.front())) << name;
        }
        EXPECT_LE(result->ranked.size() + result->refused.size(),
                  static_cast<size_t>(result->num_layouts));
        EXPECT_FALSE(result->ranked.empty() && result->refused.empty());
      }
    }
  }
}

TEST(SearchTest, EachTargetGetsTheBestOfItsKind) {
  Scenario scenario = OlmoeOn(64);
  scenario.target = {Target::Kind::kLatency, 0};
  const auto fastest = Search(scenario);
  ASSERT_TRUE(fastest.ok());
  for (const Prediction& p : fastest->ranked) {
    EXPECT_GE(p.forward.total_seconds(), fastest->ranked[0].forward.total_seconds());
  }
  scenario.target = {Target::Kind::kThroughput, 0};
  const auto most = Search(scenario);
  ASSERT_TRUE(most.ok());
  for (const Prediction& p : most->ranked) {
    EXPECT_LE(p.completed_per_second, most->ranked[0].completed_per_second);
  }
}

TEST(SearchTest, WhatCannotWorkIsListedWithItsReason) {
  Scenario scenario = OlmoeOn(8);
  scenario.model = DeepSeekV3();
  const auto result = Search(scenario);
  ASSERT_TRUE(result.ok());
  const auto whole =
      std::find_if(result->refused.begin(), result->refused.end(),
                   [](const Refusal& refusal) { return refusal.layout == "EP1_TP1_PP1_DP8"; });
  ASSERT_NE(whole, result->refused.end());
  EXPECT_THAT(whole->reason, HasSubstr("671.0 GB of weights"));
}

TEST(SearchTest, GivenLayoutsAreTheOnlyOnesLookedAt) {
  const auto result = Rank(OlmoeOn(64), {Founding(), ParseLayout("EP64_TP16_PP4_DP4").value()});
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result->ranked.size(), 1);
  EXPECT_EQ(result->ranked[0].layout, Founding());
  ASSERT_EQ(result->refused.size(), 1);
  EXPECT_THAT(result->refused[0].reason, HasSubstr("needs 16,384 GPUs where 64 exist"));
}

TEST(SearchTest, LargeClustersAreSearchedToo) {
  const auto result = Search(OlmoeOn(4096));
  ASSERT_TRUE(result.ok());
  EXPECT_GT(result->ranked.size(), 100);
  EXPECT_EQ(result->ranked.front().layout.num_gpus(), 4096);
}

TEST(SearchTest, AWrongScenarioIsRefused) { EXPECT_FALSE(Search(OlmoeOn(0)).ok()); }

}  // namespace
}  // namespace moe::planner
