// Tests cli/kubectl/status_tree.h.
#include "cli/kubectl/status_tree.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

api::RankStatus Rank(int rank, const std::string& node, const std::string& phase = "Active") {
  api::RankStatus status;
  status.rank = rank;
  status.pod = "demo-g0-s" + std::to_string(rank) + "-0";
  status.node = node;
  status.experts = std::to_string(rank);
  status.phase = phase;
  return status;
}

api::Condition MakeCondition(const std::string& type, const std::string& status,
                             const std::string& reason) {
  api::Condition condition;
  condition.type = type;
  condition.status = status;
  condition.reason = reason;
  condition.message = "because";
  return condition;
}

api::ParsedDeployment Demo() {
  api::ParsedDeployment parsed;
  parsed.deployment.ns = "ns";
  parsed.deployment.name = "demo";
  parsed.deployment.spec.replicas = 2;
  parsed.deployment.status.strategy = "EP4_TP1_PP1_DP2";
  parsed.deployment.status.ready_replicas = 1;
  parsed.deployment.status.revision = "r2";
  api::GroupStatus group;
  group.revision = "r2";
  group.phase = "Active";
  group.epoch = 3;
  for (int rank = 0; rank < 4; ++rank) group.ranks.push_back(Rank(rank, "node-a"));
  parsed.deployment.status.groups.push_back(group);
  group.index = 1;
  group.revision = "r1";
  group.phase = "Recovering";
  group.epoch = 9;
  group.ranks = {Rank(0, "node-b"), Rank(1, "node-b", "Failed"), Rank(2, "", "Pending")};
  group.ranks_left_out = 1;
  parsed.deployment.status.groups.push_back(group);
  return parsed;
}

TEST(StatusTreeTest, ShowsGroupsNodesAndRanks) {
  EXPECT_EQ(FormatStatusTree(Demo(), {}),
            "ns/demo  EP4_TP1_PP1_DP2  1 of 2 groups active\n"
            "├─ group 0  Active  epoch 3\n"
            "│  └─ node node-a, 4 ranks\n"
            "│     └─ ranks 0-3 Active, experts 0 to 3\n"
            "└─ group 1  Recovering  epoch 9  revision r1\n"
            "   ├─ node node-b, 2 ranks\n"
            "   │  ├─ rank 0    Active    expert 0        demo-g0-s0-0\n"
            "   │  └─ rank 1    Failed    expert 1        demo-g0-s1-0\n"
            "   ├─ no node yet, 1 rank\n"
            "   │  └─ rank 2    Pending   expert 2        demo-g0-s2-0\n"
            "   └─ 1 more ranks, not in the status\n");
}

TEST(StatusTreeTest, EachRankHasALineWhenAskedFor) {
  const std::string text = FormatStatusTree(Demo(), {.all_ranks = true});
  EXPECT_THAT(text, HasSubstr("rank 3    Active    expert 3        demo-g0-s3-0"));
  EXPECT_THAT(text, Not(HasSubstr("ranks 0-3")));
}

TEST(StatusTreeTest, ARankThatSharesItsPodIsShownWithItsProcess) {
  api::ParsedDeployment parsed = Demo();
  parsed.deployment.status.groups[1].ranks[1].process = 3;
  EXPECT_THAT(FormatStatusTree(parsed, {}),
              HasSubstr("rank 1    Failed    expert 1        demo-g0-s1-0 process 3\n"));
}

TEST(StatusTreeTest, ShowsWhatAutoHasDecidedAndWhatItProposes) {
  api::ParsedDeployment parsed = Demo();
  parsed.deployment.status.groups.clear();
  const api::LayoutFigures figures{64, 1.934, 33113, 410.25, 31100000000, "host"};
  api::LayoutDecision& decision = parsed.deployment.status.decision.emplace();
  decision.choice = {"EP8_TP1_PP1_DP1", 8, 8, false, 8, figures};
  decision.because = "it completes the most requests";
  decision.gpus = "64 x A on 8 nodes";
  decision.assumptions = "64 sequences in flight";
  decision.alternatives = {
      {"EP4_TP2_PP1_DP1", 4, 4, false, 8, figures, "tensor parallelism (not built)"}};
  decision.plain_replicas = api::PlainReplicas{true, 8, figures};
  decision.proposed = api::LayoutChoice{"EP16_TP1_PP1_DP1", 16, 16, false, 16};
  decision.proposed_gpus = "128 x A on 16 nodes";
  parsed.deployment.status.conditions = {
      MakeCondition("LayoutDecided", "True", "Planned"),
      MakeCondition("PlainReplicasBetter", "True", "MoreRequests")};
  const std::string text = FormatStatusTree(parsed, {});
  const std::string kFigures =
      ": 1.93 ms a pass, 33113 tokens/s, 410.25 requests/s, 31.1 GB on a GPU, limited by host";
  EXPECT_EQ(text,
            "ns/demo  EP4_TP1_PP1_DP2  1 of 2 groups active\n"
            "├─ PlainReplicasBetter=True  MoreRequests: because\n"
            "│  └─ to do: with mode: Fixed write what the message says; the figures are predicted, "
            "so measure both\n"
            "└─ layout: EP8_TP1_PP1_DP1 on 8 GPUs" +
                kFigures +
                "\n"
                "   ├─ it completes the most requests\n"
                "   ├─ decided from 64 x A on 8 nodes\n"
                "   ├─ assumed: 64 sequences in flight\n"
                "   ├─ or EP4_TP2_PP1_DP1 on 8 GPUs" +
                kFigures +
                "; needs tensor parallelism (not built)\n"
                "   ├─ as 8 whole models: 1.93 ms a pass, 410.25 requests/s\n"
                "   └─ proposed with 128 x A on 16 nodes: EP16_TP1_PP1_DP1 on 16 GPUs\n"
                "      └─ to take it: kubectl annotate moed NAME --overwrite "
                "moe-operator.dev/adopt-layout=EP16_TP1_PP1_DP1\n");
}

TEST(StatusTreeTest, ConditionsThatAreWrongComeWithWhatToDo) {
  api::ParsedDeployment parsed = Demo();
  parsed.deployment.status.conditions = {
      MakeCondition("Degraded", "False", "AsExpected"),
      MakeCondition("Failed", "False", "NoFailure"),
      MakeCondition("GangScheduled", "False", "BackingOff"),
      MakeCondition("ModelReady", "True", "Inspected"),
      MakeCondition("Ready", "False", "Loading"),
  };
  const std::string text = FormatStatusTree(parsed, {});
  EXPECT_THAT(text, HasSubstr("├─ GangScheduled=False  BackingOff: because\n"
                              "│  └─ to do: free nodes or add some"));
  EXPECT_THAT(text, HasSubstr("├─ Ready=False  Loading: because\n├─ group 0"))
      << "no advice where the message says all";
  EXPECT_THAT(text, Not(HasSubstr("Inspected")));
  EXPECT_THAT(text, Not(HasSubstr("AsExpected")));
  EXPECT_THAT(text, Not(HasSubstr("NoFailure")));
}

TEST(StatusTreeTest, TellsOfTheLastFailureAndAnUnreadableSpec) {
  api::ParsedDeployment parsed = Demo();
  parsed.spec_status = absl::InvalidArgumentError("spec.replicas: -1 is below 0");
  parsed.deployment.paused = true;
  api::FailureStatus failure;
  failure.pod = "demo-g0-s3-1";
  failure.rank = 3;
  failure.node = "node-a";
  failure.reason = "OOMKilled";
  failure.exit_code = 137;
  parsed.deployment.status.last_failure = failure;
  const std::string text = FormatStatusTree(parsed, {});
  EXPECT_THAT(text, HasSubstr("spec: spec.replicas: -1 is below 0"));
  EXPECT_THAT(text, HasSubstr("paused"));
  EXPECT_THAT(text,
              HasSubstr("last failure: pod demo-g0-s3-1, rank 3, node node-a, OOMKilled, exit "
                        "code 137\n"));
}

}  // namespace
}  // namespace moe::cli
