#include "cli/plan/manifest.h"

#include "controller/api/parse.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"
#include "yaml-cpp/yaml.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;
using planner::Layout;
using planner::ParseLayout;
using planner::Scenario;
using ::testing::HasSubstr;

Json ToJson(const YAML::Node& node) {
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& entry : node) object[entry.first.as<std::string>()] = ToJson(entry.second);
    return object;
  }
  int number = 0;
  if (YAML::convert<int>::decode(node, number)) return number;
  return node.as<std::string>();
}

// What the controller understands of a plan's manifest.
api::MoEDeploymentSpec Understood(const Scenario& scenario, const char* layout) {
  const auto result = planner::Rank(scenario, {ParseLayout(layout).value()});
  EXPECT_TRUE(result.ok()) << result.status();
  const auto best = BestExpressible(*result);
  EXPECT_TRUE(best.ok()) << best.status();
  Json object = ToJson(YAML::Load(FormatManifest(scenario, *best, *result)));
  object["metadata"]["namespace"] = "default";
  const auto parsed = api::ParseMoEDeployment(object);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->spec_status.ok()) << parsed->spec_status;
  return parsed->deployment.spec;
}

TEST(ManifestTest, TheControllerUnderstandsEveryKindOfLayout) {
  Scenario scenario = planner::OlmoeOn(64);
  scenario.batch = 960;
  const api::MoEDeploymentSpec founding = Understood(scenario, "EP64_TP1_PP1_DP1");
  EXPECT_EQ(founding.parallelism.expert, 64);
  EXPECT_EQ(founding.parallelism.attention, api::Attention::kSharded);
  EXPECT_EQ(founding.parallelism.attention_ranks, 64);
  EXPECT_EQ(founding.replicas, 1);
  EXPECT_EQ(founding.backend, api::Backend::kCuda);
  EXPECT_EQ(founding.worker.gpus_per_pod, 8);
  EXPECT_EQ(founding.engine.max_sequences, 960);
  EXPECT_EQ(founding.engine.max_context, 640);
  // 15 sequences of 640 tokens, in whole MiB.
  EXPECT_EQ(founding.engine.kv_cache_bytes, 15u * 640 * 131072);

  EXPECT_EQ(founding.worker.spares, 0);

  const api::MoEDeploymentSpec spared = Understood(scenario, "EP32+S3");
  EXPECT_EQ(spared.worker.gpus_per_pod, 8);
  EXPECT_EQ(spared.worker.spares, 1) << "a pod of 8 GPUs";

  const api::MoEDeploymentSpec few = Understood(scenario, "EP64+A8");
  EXPECT_EQ(few.parallelism.attention_ranks, 8);

  const api::MoEDeploymentSpec replicas = Understood(scenario, "DP64");
  EXPECT_EQ(replicas.parallelism.expert, 1);
  EXPECT_EQ(replicas.replicas, 64);
  EXPECT_EQ(replicas.worker.gpus_per_pod, 1);

  scenario.batch = 64;
  const api::MoEDeploymentSpec replicated = Understood(scenario, "EP64+replicated");
  EXPECT_EQ(replicated.parallelism.attention, api::Attention::kReplicated);
  EXPECT_FALSE(replicated.parallelism.attention_ranks.has_value());
}

TEST(ManifestTest, AnyModelNameBecomesAnObjectName) {
  Scenario scenario = planner::OlmoeOn(8);
  for (const char* name : {"OLMoE-1B-7B-0125-Instruct", "7b", "__", "Ünï", "a.b_c",
                           "a-name-that-is-much-longer-than-an-object-may-be-called-here"}) {
    scenario.model.name = name;
    Understood(scenario, "EP8");
  }
}

TEST(ManifestTest, TheBestThatCanBeSaidIsPrintedAndTheBetterOneIsNamed) {
  const Scenario scenario = planner::OlmoeOn(64);
  auto result = planner::Rank(
      scenario, {ParseLayout("EP32_TP2").value(), ParseLayout("EP64+gather-scatter").value(),
                 ParseLayout("EP64+replicated").value()});
  ASSERT_TRUE(result.ok());
  ASSERT_NE(LayoutName(result->ranked.front().layout), "EP64_TP1_PP1_DP1+replicated");
  const auto best = BestExpressible(*result);
  ASSERT_TRUE(best.ok()) << best.status();
  EXPECT_EQ(LayoutName(best->layout), "EP64_TP1_PP1_DP1+replicated");
  EXPECT_THAT(FormatManifest(scenario, *best, *result),
              HasSubstr("# The best layout is " + LayoutName(result->ranked.front().layout)));
}

TEST(ManifestTest, WhatAMoEDeploymentCannotSayIsRefused) {
  struct Row {
    const char* layout;
    const char* message;
  };
  for (const Row& row :
       {Row{"EP8_TP2", "tensor parallelism"}, Row{"EP8+C2", "expert copies"},
        Row{"DP65", "at most 64 replicas"}, Row{"EP64_DP33", "2,048 workers in all"},
        Row{"EP1025", "at most 1024 workers"}}) {
    EXPECT_THAT(std::string(CheckExpressible(ParseLayout(row.layout).value()).message()),
                HasSubstr(row.message))
        << row.layout;
  }
  const auto nothing =
      planner::Rank(planner::OlmoeOn(64), {ParseLayout("EP64_TP16_PP4_DP4").value()});
  EXPECT_THAT(std::string(BestExpressible(*nothing).status().message()),
              HasSubstr("needs 16,384 GPUs where 64 exist"));
}

}  // namespace
}  // namespace moe::cli
