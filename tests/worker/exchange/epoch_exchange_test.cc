// Layers, plans and results of whole groups over either exchange, ranks as threads, against the
// obvious reference.
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"

namespace moe::exchange {
namespace {

class EpochExchangeTest : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Exchanges, EpochExchangeTest,
                         testing::Values(Kind::kSharedMemory, Kind::kTcp), KindName);

TEST_P(EpochExchangeTest, RandomGroupsGiveTheReferenceResults) {
  std::mt19937 random(5);
  for (int num_ranks = 1; num_ranks <= 9; ++num_ranks) {
    for (int num_owners = 1; num_owners <= num_ranks; ++num_owners) {
      SCOPED_TRACE(absl::StrCat(num_owners, " of ", num_ranks, " ranks own rows"));
      const auto threads = MakeThreads(GetParam(), RandomShape(num_ranks, num_owners, random));
      RunSteps(*threads, 5, static_cast<uint32_t>(random()));
    }
  }
}

TEST_P(EpochExchangeTest, SixtyFourRanksGiveTheReferenceResults) {
  std::mt19937 random(6);
  for (const int num_owners : {1, 2, 8, 64}) {
    SCOPED_TRACE(absl::StrCat(num_owners, " owners"));
    const auto threads = MakeThreads(GetParam(), RandomShape(64, num_owners, random));
    RunSteps(*threads, 3, static_cast<uint32_t>(random()));
  }
}

TEST_P(EpochExchangeTest, ReplicatedGroupsGiveTheReferenceResults) {
  std::mt19937 random(9);
  for (const int num_ranks : {1, 2, 3, 5, 9, 64}) {
    SCOPED_TRACE(absl::StrCat(num_ranks, " ranks"));
    GroupShape shape = RandomShape(num_ranks, 1, random);
    shape.replicated = true;
    const auto threads = MakeThreads(GetParam(), shape);
    RunSteps(*threads, 5, static_cast<uint32_t>(random()));
  }
}

TEST_P(EpochExchangeTest, ReplicatedGroupsWithOneLayerAlternateTheirBuffers) {
  GroupShape shape = SmallShape(4, 1);
  shape.replicated = true;
  shape.num_layers = 1;
  const auto threads = MakeThreads(GetParam(), shape);
  RunSteps(*threads, 50, 10);
}

TEST_P(EpochExchangeTest, OneRankRunsAllExpertsInOneCallAndNeedsNoPlan) {
  GroupShape shape = SmallShape(1, 1);
  shape.num_experts = 6;
  shape.top_k = 4;
  shape.rank_of_expert.assign(6, 0);
  const auto threads = MakeThreads(GetParam(), shape);
  threads->ConnectAll();
  std::mt19937 random(13);
  EXPECT_EQ(RunLayers(shape, *threads->ranks[0], 41, 3, random), 0);
  EXPECT_EQ(threads->experts[0]->num_runs, shape.num_layers);
  EXPECT_EQ(threads->experts[0]->num_rows, shape.num_layers * 12);
  EXPECT_EQ(threads->ranks[0]->stats().dispatch_bytes, 0u);
  EXPECT_EQ(threads->ranks[0]->stats().combine_bytes, 0u);
}

TEST_P(EpochExchangeTest, BytesCountOnlyRowsOfOtherRanks) {
  GroupShape shape = SmallShape(3, 1);
  shape.num_layers = 1;
  const auto threads = MakeThreads(GetParam(), shape);
  RunSteps(*threads, 1, 15);
  const ExchangeStats stats = threads->ranks[0]->stats();
  const auto rows = static_cast<uint64_t>(threads->experts[0]->num_rows);  // one for each token
  EXPECT_EQ(stats.dispatch_bytes, rows * 2 * shape.hidden * 2);
  EXPECT_EQ(stats.combine_bytes, rows * 2 * shape.hidden * 2);
}

TEST_P(EpochExchangeTest, PlansAndResultsMayHaveAnySizeUpToTheirBounds) {
  const GroupShape shape = SmallShape(2, 1);
  const auto threads = MakeThreads(GetParam(), shape);
  const std::string plan(kMaxPlanBytes, 'p');
  const std::string result(kMaxResultBytes, 'r');
  threads->RunAll([&](int rank, EpochExchange& group) {
    ASSERT_TRUE(group.Connect().ok());
    if (rank == 1) {
      for (const bool large : {true, false}) {
        auto received = group.ReceivePlan();
        ASSERT_TRUE(received.ok()) << received.status();
        EXPECT_TRUE(received->plan == (large ? plan : ""));
        EXPECT_EQ(group.SendResult(received->step, result + "x").code(),
                  absl::StatusCode::kInvalidArgument);
        ASSERT_TRUE(group.SendResult(received->step, large ? result : "").ok());
      }
      return;
    }
    EXPECT_EQ(group.SendPlan(1, plan + "x", {1}).code(), absl::StatusCode::kInvalidArgument);
    for (const bool large : {true, false}) {
      const uint64_t step = large ? 1 : 2;
      ASSERT_TRUE(group.SendPlan(step, large ? plan : "", {1}).ok());
      auto results = group.ReceiveResults(step, {1});
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_TRUE(results->at(0) == (large ? result : ""));
    }
  });
}

TEST_P(EpochExchangeTest, MisuseIsRefusedAndLeavesTheGroupUsable) {
  const GroupShape shape = SmallShape(2, 1);
  const auto threads = MakeThreads(GetParam(), shape);
  EpochExchange& leader = *threads->ranks[0];
  EpochExchange& other = *threads->ranks[1];
  const std::vector<int32_t> ids = {0, 1, 0, 1, 0, 1, 0, 1};
  const auto refused = [](const absl::Status& status) {
    return status.code() == absl::StatusCode::kFailedPrecondition ||
           status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(leader.SendPlan(1, "", {})));  // not connected
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 1, ids.data())));
  threads->ConnectAll();
  EXPECT_TRUE(refused(leader.Connect()));
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 1, ids.data())));  // no plan
  EXPECT_TRUE(refused(leader.Combine().status()));
  EXPECT_TRUE(refused(leader.ReceivePlan().status()));
  EXPECT_TRUE(refused(leader.SendResult(1, "")));
  EXPECT_TRUE(refused(leader.ReceiveResults(1, {}).status()));
  EXPECT_TRUE(refused(leader.SendPlan(1, "", {2})));
  EXPECT_TRUE(refused(other.SendPlan(1, "", {})));
  EXPECT_TRUE(refused(other.ReceiveResults(1, {}).status()));
  EXPECT_TRUE(refused(other.SendResult(1, "")));
  EXPECT_TRUE(refused(other.Dispatch(1, 0, 1, ids.data())));
  EXPECT_EQ(other.rows(), nullptr);

  ASSERT_TRUE(leader.SendPlan(1, "", {1}).ok());
  EXPECT_TRUE(refused(leader.SendPlan(2, "", {1})));  // rank 1 has not taken plan 1
  EXPECT_TRUE(refused(leader.SendPlan(3, "", {})));
  EXPECT_TRUE(refused(leader.Dispatch(2, 0, 1, ids.data())));
  EXPECT_TRUE(refused(leader.Dispatch(1, 2, 1, ids.data())));
  EXPECT_TRUE(refused(leader.Dispatch(1, -1, 1, ids.data())));
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 0, ids.data())));
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 4, ids.data())));
  const std::vector<int32_t> bad_ids = {0, 2};
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 1, bad_ids.data())));

  threads->RunAll([&](int rank, EpochExchange& group) {
    if (rank == 1) {
      ASSERT_TRUE(group.ReceivePlan().ok());
      EXPECT_TRUE(refused(group.SendResult(2, "")));
      ASSERT_TRUE(group.SendResult(1, "").ok());
      EXPECT_TRUE(refused(group.SendResult(1, "")));
      EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kAborted);
      return;
    }
    ASSERT_TRUE(group.ReceiveResults(1, {1}).ok());
    ASSERT_TRUE(group.Dispatch(1, 1, 1, ids.data()).ok());
    EXPECT_TRUE(refused(group.Dispatch(1, 1, 1, ids.data())));
    EXPECT_TRUE(refused(group.SendPlan(2, "", {})));
    ASSERT_TRUE(group.Combine().ok());
    EXPECT_TRUE(refused(group.Dispatch(1, 0, 1, ids.data())));  // the layer goes back
    threads->ranks[1]->Abort("end of the test");
  });
}

}  // namespace
}  // namespace moe::exchange
