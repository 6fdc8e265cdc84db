// Ranks that stop or give up, over either exchange: what the others get. Ranks are threads.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/group_steps.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// Long enough for a live rank to answer on a busy machine.
constexpr absl::Duration kShort = absl::Seconds(1);

class EpochExchangeAbortTest : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Exchanges, EpochExchangeAbortTest,
                         testing::Values(Kind::kSharedMemory, Kind::kTcp), KindName);
class EpochExchangeDeadlineTest : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Exchanges, EpochExchangeDeadlineTest,
                         testing::Values(Kind::kSharedMemory, Kind::kTcp), KindName);

// Every row to every rank.
std::vector<int32_t> AllExperts(const GroupShape& shape) {
  std::vector<int32_t> ids;
  for (int row = 0; row < shape.max_rows; ++row) {
    for (int expert = 0; expert < shape.top_k; ++expert) ids.push_back(expert);
  }
  return ids;
}

// ---- Abort

TEST_P(EpochExchangeAbortTest, EndsEveryKindOfWaitAtOnceAndForGood) {
  for (const bool replicated : {false, true}) {
    GroupShape shape = SmallShape(4, 2);
    shape.replicated = replicated;
    const auto threads = MakeThreads(GetParam(), shape);
    threads->ConnectAll();
    const std::vector<int32_t> ids = AllExperts(shape);
    std::vector<std::thread> waiting;
    std::atomic<bool> plan_sent{false};
    // Rank 0 waits for a result, 1 for outputs of rank 3, which never serves, 2 for a plan.
    waiting.emplace_back([&] {
      ASSERT_TRUE(threads->ranks[0]->SendPlan(1, "", {1}).ok());
      plan_sent = true;
      EXPECT_EQ(threads->ranks[0]->ReceiveResults(1, {1}).status().code(),
                absl::StatusCode::kAborted);
    });
    waiting.emplace_back([&] {
      ASSERT_TRUE(threads->ranks[1]->ReceivePlan().ok());
      ASSERT_TRUE(threads->ranks[1]->Dispatch(1, 0, 1, ids.data()).ok());
      EXPECT_EQ(threads->ranks[1]->Combine().status().code(), absl::StatusCode::kAborted);
    });
    waiting.emplace_back([&] {
      auto& group = *threads->ranks[2];
      while (!plan_sent) std::this_thread::yield();
      if (replicated) {
        ASSERT_TRUE(group.ReceivePlan().ok());
      }
      EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kAborted);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    for (int rank = 0; rank < 3; ++rank) threads->ranks[rank]->Abort("the first reason");
    for (std::thread& thread : waiting) thread.join();

    EpochExchange& group = *threads->ranks[0];
    group.Abort("another reason");
    for (const absl::Status& status :
         {group.SendPlan(2, "", {}), group.Dispatch(1, 0, 1, ids.data()), group.Combine().status(),
          group.ReceiveResults(1, {1}).status(), threads->ranks[2]->ReceivePlan().status(),
          threads->ranks[2]->SendResult(1, "")}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
      EXPECT_THAT(status.ToString(), HasSubstr("the first reason"));
    }
    EXPECT_EQ(group.suspect(), -1);
  }
}

TEST_P(EpochExchangeAbortTest, EndsConnect) {
  const auto threads =
      MakeThreads(GetParam(), SmallShape(2, 1), absl::Minutes(2), absl::InfiniteDuration());
  std::thread waiting(
      [&] { EXPECT_EQ(threads->ranks[0]->Connect().code(), absl::StatusCode::kAborted); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  threads->ranks[0]->Abort("no more");
  waiting.join();
}

// ---- Deadlines

TEST_P(EpochExchangeDeadlineTest, ConnectNamesTheLowestMissingRank) {
  for (const bool replicated : {false, true}) {
    GroupShape shape = SmallShape(5, 2);
    shape.replicated = replicated;
    const auto threads = MakeThreads(GetParam(), shape, absl::Minutes(2), kShort);
    threads->RunAll([&](int rank, EpochExchange& group) {
      if (rank == 2 || rank == 4) return;
      const absl::Status status = group.Connect();
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      EXPECT_THAT(status.ToString(), HasSubstr("rank 2 did not join"));
      EXPECT_EQ(group.suspect(), 2);
    });
  }
}

TEST_P(EpochExchangeDeadlineTest, CombineNamesTheRankThatDoesNotServe) {
  const GroupShape shape = SmallShape(4, 1);
  const auto threads = MakeThreads(GetParam(), shape, kShort);
  threads->ConnectAll();
  const std::vector<int32_t> ids = AllExperts(shape);
  threads->RunAll([&](int rank, EpochExchange& group) {
    if (rank == 2) return;
    if (rank != 0) {
      EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kAborted);
      return;
    }
    ASSERT_TRUE(group.SendPlan(1, "", {}).ok());
    ASSERT_TRUE(group.Dispatch(1, 0, 2, ids.data()).ok());
    const absl::Status status = group.Combine().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("rank 2 did not answer layer 0 of step 1"));
    EXPECT_EQ(group.suspect(), 2);
    // The epoch is over for this rank.
    EXPECT_EQ(group.SendPlan(2, "", {}).code(), absl::StatusCode::kDeadlineExceeded);
    for (const int other : {1, 3}) threads->ranks[other]->Abort("done");
  });
}

TEST_P(EpochExchangeDeadlineTest, ReplicatedCombineNamesTheRankThatDoesNotArrive) {
  GroupShape shape = SmallShape(4, 1);
  shape.replicated = true;
  const auto threads = MakeThreads(GetParam(), shape, kShort);
  threads->ConnectAll();
  const std::vector<int32_t> ids = AllExperts(shape);
  threads->RunAll([&](int rank, EpochExchange& group) {
    if (rank == 0) {
      ASSERT_TRUE(group.SendPlan(1, "", {}).ok());
    } else {
      ASSERT_TRUE(group.ReceivePlan().ok());
    }
    if (rank == 3) return;
    ASSERT_TRUE(group.Dispatch(1, 0, 2, ids.data()).ok());
    EXPECT_EQ(group.Combine().status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(group.suspect(), 3);
  });
}

TEST_P(EpochExchangeDeadlineTest, ReceiveResultsNamesTheRankThatSendsNone) {
  const GroupShape shape = SmallShape(4, 4);
  const auto threads = MakeThreads(GetParam(), shape, kShort);
  threads->ConnectAll();
  threads->RunAll([&](int rank, EpochExchange& group) {
    if (rank != 0) {
      ASSERT_TRUE(group.ReceivePlan().ok());
      if (rank != 2) {
        ASSERT_TRUE(group.SendResult(1, "").ok());
      }
      return;
    }
    ASSERT_TRUE(group.SendPlan(1, "", {1, 2, 3}).ok());
    EXPECT_EQ(group.ReceiveResults(1, {1, 2, 3}).status().code(),
              absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(group.suspect(), 2);
  });
}

}  // namespace
}  // namespace moe::exchange
