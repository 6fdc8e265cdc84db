// Epochs over the fake NCCL that go well, and calls that can't be.
#include "worker/exchange/nccl/nccl_epoch.h"

#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "tests/worker/exchange/nccl/ring.h"

namespace moe::exchange {
namespace {

TEST(NcclEpochTest, EpochsOfAnyWidthRunOneAfterTheOther) {
  for (const int num_ranks : {1, 2, 3, 8}) {
    for (const int num_owners : {1, num_ranks}) {
      SCOPED_TRACE(absl::StrCat(num_owners, " of ", num_ranks, " ranks own rows"));
      NcclThreads threads(SmallShape(num_ranks, num_owners));
      for (const uint64_t number : {4, 5, 9}) {
        threads.MakeEpoch(number);
        threads.ConnectAll();
        EXPECT_EQ(threads.nccl.num_communicators(), num_ranks);
        threads.RunAll([&](int rank) {
          RunRingSteps(threads, rank, 3);
          const absl::Status closed = threads.epochs[rank]->Close();
          ASSERT_TRUE(closed.ok()) << closed;
        });
        EXPECT_EQ(threads.nccl.num_communicators(), 0);
      }
    }
  }
}

TEST(NcclEpochTest, EpochsThatAreDroppedLeaveNothingBehind) {
  NcclThreads threads(SmallShape(3, 1));
  threads.MakeEpoch(1);
  threads.MakeEpoch(2);  // the first was never connected
  threads.ConnectAll();
  std::array<char, 3> buffers = {};
  threads.RunAll(
      [&](int rank) { ASSERT_TRUE(threads.epochs[rank]->Register(&buffers[rank], 1).ok()); });
  EXPECT_EQ(threads.nccl.num_registrations(), 3);
  threads.MakeEpoch(3);
  EXPECT_EQ(threads.nccl.num_communicators(), 0);
  EXPECT_EQ(threads.nccl.num_registrations(), 0);
}

TEST(NcclEpochTest, TheBootstrapIsOfOneEpochAndShape) {
  NcclThreads threads(SmallShape(2, 1));
  threads.MakeEpoch(6);
  NcclEpochOptions options = threads.options;
  options.control.listener = threads.listeners[1].get();
  const std::string bootstrap = threads.epochs[0]->bootstrap();
  const auto open = [&](const std::string& bytes, const GroupShape& shape, uint64_t number,
                        int rank) {
    return NcclEpoch::Open(bytes, shape, number, rank, threads.apis[1].get(), options)
        .status()
        .code();
  };
  EXPECT_EQ(open("", threads.shape, 6, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(open(bootstrap, threads.shape, 7, 1), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(open(bootstrap, threads.shape, 6, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(open(bootstrap, threads.shape, 6, 2), absl::StatusCode::kInvalidArgument);
  GroupShape other = threads.shape;
  ++other.num_layers;
  EXPECT_EQ(open(bootstrap, other, 6, 1), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(open(bootstrap, threads.shape, 6, 1), absl::StatusCode::kOk);
}

TEST(NcclEpochTest, CallsOutOfOrderAreRefusedAndChangeNothing) {
  NcclThreads threads(SmallShape(3, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  NcclEpoch& leader = *threads.epochs[0];
  NcclEpoch& other = *threads.epochs[1];
  const auto refused = [](const absl::Status& status) {
    return status.code() == absl::StatusCode::kFailedPrecondition ||
           status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(leader.Connect()));
  EXPECT_TRUE(refused(leader.SendPlan(1, "", {1})));  // rank 2 would not come
  EXPECT_TRUE(refused(other.SendPlan(1, "", {1, 2})));
  EXPECT_TRUE(refused(leader.EndStep()));
  EXPECT_TRUE(refused(leader.BeginLayer(0)));
  ASSERT_TRUE(leader.BeginStep(5).ok());
  EXPECT_TRUE(refused(leader.BeginStep(6)));
  EXPECT_TRUE(refused(leader.BeginLayer(2)));
  EXPECT_TRUE(refused(leader.BeginLayer(-1)));
  ASSERT_TRUE(leader.BeginLayer(1).ok());
  EXPECT_TRUE(refused(leader.BeginLayer(1)));
  EXPECT_TRUE(refused(leader.BeginLayer(0)));
  EXPECT_TRUE(refused(leader.ReceiveResults(5, {}).status()));
  EXPECT_TRUE(refused(leader.Close()));
  ASSERT_TRUE(leader.EndStep().ok());
  EXPECT_TRUE(refused(leader.BeginStep(5)));
  ASSERT_TRUE(other.BeginStep(5).ok());
  EXPECT_TRUE(refused(other.ReceivePlan().status()));
  EXPECT_TRUE(refused(other.SendResult(5, "")));
  EXPECT_TRUE(leader.status().ok());
  EXPECT_TRUE(other.status().ok());
}

TEST(NcclEpochTest, TheLeaderReceivesResultsWhileTheStepThatWasPlannedAheadRuns) {
  constexpr int kNumSteps = 5;
  NcclThreads threads(SmallShape(3, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    if (rank != 0) return RunRingSteps(threads, rank, kNumSteps);
    ASSERT_TRUE(epoch.TakesPlanAhead());
    ASSERT_TRUE(epoch.SendPlan(1, "compute", threads.others()).ok());
    for (uint64_t step = 1; step <= kNumSteps; ++step) {
      ASSERT_TRUE(epoch.BeginStep(step).ok());
      if (step > 1) {
        const auto results = epoch.ReceiveResults(step - 1, threads.others());
        ASSERT_TRUE(results.ok()) << results.status();
        EXPECT_THAT(*results, testing::Each("compute"));
      }
      if (step < kNumSteps) {
        ASSERT_TRUE(epoch.SendPlan(step + 1, "compute", threads.others()).ok());
      }
      EXPECT_EQ(epoch.ReceiveResults(step, threads.others()).status().code(),
                absl::StatusCode::kFailedPrecondition);
      for (int layer = 0; layer < threads.shape.num_layers; ++layer) {
        const absl::Status status = RunRingLayer(threads, rank, step, layer);
        ASSERT_TRUE(status.ok()) << status;
      }
      ASSERT_TRUE(epoch.EndStep().ok());
    }
    ASSERT_TRUE(epoch.ReceiveResults(kNumSteps, threads.others()).ok());
  });
}

}  // namespace
}  // namespace moe::exchange
