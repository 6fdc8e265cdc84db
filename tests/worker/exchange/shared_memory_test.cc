// Layers, plans and results of whole groups, ranks as threads, against the obvious reference.
#include "worker/exchange/shared_memory.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

std::string ToString(std::string_view text) { return std::string(text); }

// The plan of these tests: how many rows each owner has in the step.
std::string PlanText(const std::vector<int>& num_rows) {
  std::string text;
  for (const int count : num_rows) text.push_back(static_cast<char>(count));
  return text;
}

int RunLayers(const GroupShape& shape, SharedMemoryGroup& group, uint64_t step, int num_rows,
              std::mt19937& random) {
  int num_wrong = 0;
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const std::vector<int32_t> expert_ids = RandomRouting(shape, num_rows, group.rows(), random);
    const absl::Status sent = group.Dispatch(step, layer, num_rows, expert_ids.data());
    EXPECT_TRUE(sent.ok()) << sent;
    const auto results = group.Combine();
    EXPECT_TRUE(results.ok()) << results.status();
    if (!sent.ok() || !results.ok()) return -1;
    num_wrong += CountWrong(shape, layer, num_rows, group.rows(), expert_ids, *results);
  }
  return num_wrong;
}

// The engine in small: a leader with plans and results, and owners that compute their rows. Ends
// with a plan that has no rows for anybody and names all ranks.
void RunSteps(ThreadGroup& threads, int num_steps, uint32_t seed) {
  const GroupShape& shape = threads.shape;
  const int num_owners = shape.replicated ? shape.num_ranks : shape.num_attention_ranks;
  std::vector<int> all;
  for (int rank = 1; rank < shape.num_ranks; ++rank) all.push_back(rank);

  threads.RunAll([&](int rank, SharedMemoryGroup& group) {
    ASSERT_TRUE(group.Connect().ok());
    std::mt19937 random(shape.replicated ? seed : seed + 1000 * (rank + 1));
    if (rank != 0) {
      while (true) {
        auto plan = group.ReceivePlan();
        ASSERT_TRUE(plan.ok()) << plan.status();
        if (plan->plan.empty()) return;
        const int num_rows = plan->plan.at(shape.replicated ? 0 : rank);
        const int num_wrong = RunLayers(shape, group, plan->step, num_rows, random);
        ASSERT_EQ(num_wrong, 0);
        const absl::Status sent =
            group.SendResult(plan->step, absl::StrCat("r", rank, "s", plan->step));
        ASSERT_TRUE(sent.ok()) << sent;
      }
    }
    std::mt19937 leader_random(seed + 99);
    for (int step = 1; step <= num_steps; ++step) {
      std::vector<int> num_rows(num_owners);
      std::vector<int> named;
      for (int owner = 0; owner < num_owners; ++owner) {
        // Often idle; a replicated group has one number of rows for all, and never none.
        const int low = shape.replicated ? 1 : -shape.max_rows;
        const int count = std::uniform_int_distribution<int>(low, shape.max_rows)(leader_random);
        num_rows[owner] = std::max(0, count);
        if (owner > 0 && num_rows[owner] > 0) named.push_back(owner);
      }
      if (shape.replicated) named = all;
      const absl::Status sent = group.SendPlan(step, PlanText(num_rows), named);
      ASSERT_TRUE(sent.ok()) << sent;
      if (num_rows[0] > 0) {
        ASSERT_EQ(RunLayers(shape, group, step, num_rows[0], random), 0);
      }
      auto results = group.ReceiveResults(step, named);
      ASSERT_TRUE(results.ok()) << results.status();
      ASSERT_EQ(results->size(), named.size());
      for (size_t i = 0; i < named.size(); ++i) {
        EXPECT_EQ((*results)[i], absl::StrCat("r", named[i], "s", step));
      }
    }
    ASSERT_TRUE(group.SendPlan(num_steps + 1, "", all).ok());
  });
}

TEST(SharedMemoryTest, RandomGroupsGiveTheReferenceResults) {
  std::mt19937 random(5);
  for (int num_ranks = 1; num_ranks <= 9; ++num_ranks) {
    for (int num_owners = 1; num_owners <= num_ranks; ++num_owners) {
      SCOPED_TRACE(absl::StrCat(num_owners, " of ", num_ranks, " ranks own rows"));
      ThreadGroup threads(RandomShape(num_ranks, num_owners, random));
      RunSteps(threads, 5, static_cast<uint32_t>(random()));
    }
  }
}

TEST(SharedMemoryTest, SixtyFourRanksGiveTheReferenceResults) {
  std::mt19937 random(6);
  for (const int num_owners : {1, 2, 8, 64}) {
    SCOPED_TRACE(absl::StrCat(num_owners, " owners"));
    ThreadGroup threads(RandomShape(64, num_owners, random));
    RunSteps(threads, 3, static_cast<uint32_t>(random()));
  }
}

TEST(SharedMemoryTest, MoreRanksThanOneWordOfBitsGiveTheReferenceResults) {
  std::mt19937 random(7);
  GroupShape shape = RandomShape(130, 3, random);
  ThreadGroup threads(shape);
  RunSteps(threads, 2, 8);
}

TEST(SharedMemoryTest, ReplicatedGroupsGiveTheReferenceResults) {
  std::mt19937 random(9);
  for (const int num_ranks : {1, 2, 3, 5, 9, 64}) {
    SCOPED_TRACE(absl::StrCat(num_ranks, " ranks"));
    GroupShape shape = RandomShape(num_ranks, 1, random);
    shape.replicated = true;
    ThreadGroup threads(shape);
    RunSteps(threads, 5, static_cast<uint32_t>(random()));
  }
}

TEST(SharedMemoryTest, ReplicatedGroupsWithOneLayerAlternateTheirBuffers) {
  GroupShape shape = SmallShape(4, 1);
  shape.replicated = true;
  shape.num_layers = 1;
  ThreadGroup threads(shape);
  RunSteps(threads, 50, 10);
}

TEST(SharedMemoryTest, SpinningRanksGiveTheReferenceResults) {
  std::mt19937 random(11);
  ThreadGroup threads(RandomShape(3, 2, random), {.step_deadline = absl::Minutes(2),
                                                  .join_deadline = absl::Minutes(2),
                                                  .spin = absl::Microseconds(50)});
  RunSteps(threads, 5, 12);
}

TEST(SharedMemoryTest, RanksThatTakeTurnsGiveTheReferenceResults) {
  std::mt19937 random(14);
  for (const int num_owners : {1, 2, 8, 64}) {
    // Core 1000 is on no machine of these tests: ranks then stay where they are.
    for (const std::vector<int>& cores :
         {AllowedCores(), {AllowedCores()[0]}, {1000, 1001, 1002}}) {
      SCOPED_TRACE(absl::StrCat(num_owners, " owners on ", cores.size(), " cores"));
      SharedMemoryOptions options = kPatient;
      options.cores = cores;
      ThreadGroup threads(RandomShape(64, num_owners, random), options);
      RunSteps(threads, 3, static_cast<uint32_t>(random()));
    }
  }
}

TEST(SharedMemoryTest, OneRankRunsAllExpertsInOneCallAndNeedsNoPlan) {
  GroupShape shape = SmallShape(1, 1);
  shape.num_experts = 6;
  shape.top_k = 4;
  shape.rank_of_expert.assign(6, 0);
  ThreadGroup threads(shape);
  threads.ConnectAll();
  std::mt19937 random(13);
  EXPECT_EQ(RunLayers(shape, *threads.ranks[0], 41, 3, random), 0);
  EXPECT_EQ(threads.experts[0]->num_runs, shape.num_layers);
  EXPECT_EQ(threads.experts[0]->num_rows, shape.num_layers * 12);
  EXPECT_EQ(threads.ranks[0]->stats().dispatch_bytes, 0u);
  EXPECT_EQ(threads.ranks[0]->stats().combine_bytes, 0u);
}

TEST(SharedMemoryTest, BytesCountOnlyRowsOfOtherRanks) {
  GroupShape shape = SmallShape(3, 1);
  shape.num_layers = 1;
  ThreadGroup threads(shape);
  RunSteps(threads, 1, 15);
  const ExchangeStats stats = threads.ranks[0]->stats();
  const auto rows = static_cast<uint64_t>(threads.experts[0]->num_rows);  // one for each token
  EXPECT_EQ(stats.dispatch_bytes, rows * 2 * shape.hidden * 2);
  EXPECT_EQ(stats.combine_bytes, rows * 2 * shape.hidden * 2);
}

TEST(SharedMemoryTest, PlansAndResultsMayHaveAnySizeUpToTheirBounds) {
  const GroupShape shape = SmallShape(2, 1);
  ThreadGroup threads(shape);
  const std::string plan(kMaxPlanBytes, 'p');
  const std::string result(kMaxResultBytes, 'r');
  threads.RunAll([&](int rank, SharedMemoryGroup& group) {
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
      ASSERT_TRUE(group.SendPlan(step, large ? ToString(plan) : "", {1}).ok());
      auto results = group.ReceiveResults(step, {1});
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_TRUE(results->at(0) == (large ? result : ""));
    }
  });
}

TEST(SharedMemoryTest, MisuseIsRefusedAndLeavesTheGroupUsable) {
  const GroupShape shape = SmallShape(2, 1);
  ThreadGroup threads(shape);
  RankGroup& leader = *threads.ranks[0];
  RankGroup& other = *threads.ranks[1];
  const std::vector<int32_t> ids = {0, 1, 0, 1, 0, 1, 0, 1};
  const auto refused = [](const absl::Status& status) {
    return status.code() == absl::StatusCode::kFailedPrecondition ||
           status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(leader.SendPlan(1, "", {})));  // not connected
  EXPECT_TRUE(refused(leader.Dispatch(1, 0, 1, ids.data())));
  threads.ConnectAll();
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

  threads.RunAll([&](int rank, SharedMemoryGroup& group) {
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
    threads.ranks[1]->Abort("end of the test");
  });
}

TEST(SharedMemoryTest, CreateAndOpenRefuseWhatCannotBe) {
  GroupShape shape = SmallShape(2, 1);
  FakeExperts experts(shape, 0);
  auto leader = SharedMemoryGroup::Create(shape, 3, &experts, {});
  ASSERT_TRUE(leader.ok()) << leader.status();
  const std::string bootstrap = (*leader)->bootstrap();
  for (const int rank : {-1, 0, 2}) {
    EXPECT_EQ(SharedMemoryGroup::Open(bootstrap, shape, 3, rank, &experts, {}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(SharedMemoryGroup::Open(bootstrap, shape, 3, 1, &experts, {}).ok());
  EXPECT_EQ(SharedMemoryGroup::Open(bootstrap, shape, 4, 1, &experts, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  shape.top_k = 0;
  EXPECT_THAT(SharedMemoryGroup::Create(shape, 3, &experts, {}).status().ToString(),
              HasSubstr("top_k"));
}

}  // namespace
}  // namespace moe::exchange
