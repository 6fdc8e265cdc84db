// What goes wrong in an epoch over NCCL: each fault ends it for all ranks, with the right suspect.
#include <array>
#include <latch>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "tests/worker/exchange/nccl/ring.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Deadlines that pass within a test: long enough for every rank to get where it waits.
constexpr absl::Duration kShort = absl::Milliseconds(500);

// ---- Ranks that are lost. No deadline passes in these tests.

TEST(NcclLossTest, ARankThatDiesInALayerIsTheSuspectOfAllOthers) {
  for (const int num_owners : {1, 4}) {
    SCOPED_TRACE(absl::StrCat(num_owners, " owners"));
    NcclThreads threads(SmallShape(4, num_owners));
    threads.MakeEpoch(1);
    threads.ConnectAll();
    std::latch computed(4);
    threads.RunAll([&](int rank) {
      NcclEpoch& epoch = *threads.epochs[rank];
      EXPECT_TRUE(epoch.BeginStep(3).ok());
      EXPECT_TRUE(RunRingLayer(threads, rank, 3, 0).ok());
      computed.arrive_and_wait();
      if (rank == 2) {
        threads.epochs[2].reset();  // its connections close, as for a process that was killed
        return;
      }
      // The next rank's layer may still be done.
      absl::Status status = RunRingLayer(threads, rank, 3, 1);
      if (status.ok()) status = epoch.Await([] { return false; });
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      EXPECT_THAT(status.ToString(), HasSubstr("rank 2"));
      // It may be seen before this rank begins its next layer.
      EXPECT_THAT(status.ToString(), HasSubstr(" of step 3"));
      EXPECT_EQ(epoch.suspect(), 2) << "as rank " << rank << " sees it: " << status;
      EXPECT_EQ(epoch.EndStep(), status);  // the reason stays
      EXPECT_EQ(epoch.Register(&epoch, 1), status);
    });
  }
}

// With one owner, ranks 1 and 3 are only told by rank 0, behind the plan that they did not take
// yet.
TEST(NcclLossTest, ARankThatDiesWhileAPlanWaitsIsTheSuspectOfAllOthers) {
  NcclThreads threads(SmallShape(4, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  std::latch computed(4);
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    if (rank == 0) {
      EXPECT_TRUE(epoch.SendPlan(3, "compute", threads.others()).ok());
      EXPECT_TRUE(epoch.SendPlan(4, "compute", threads.others()).ok());
    } else {
      EXPECT_TRUE(epoch.ReceivePlan().ok());
    }
    EXPECT_TRUE(epoch.BeginStep(3).ok());
    EXPECT_TRUE(RunRingLayer(threads, rank, 3, 0).ok());
    computed.arrive_and_wait();
    if (rank == 2) {
      threads.epochs[2].reset();
      return;
    }
    const absl::Status status = epoch.Await([] { return false; });
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(epoch.suspect(), 2) << "as rank " << rank << " sees it: " << status;
  });
}

TEST(NcclLossTest, ARankThatDiesBetweenStepsIsTheSuspectOfRanksThatWaitForAPlan) {
  NcclThreads threads(SmallShape(3, 3));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    if (rank == 2) {
      threads.epochs[2].reset();
      return;
    }
    NcclEpoch& epoch = *threads.epochs[rank];
    const absl::Status status =
        rank == 0 ? epoch.Await([] { return false; }) : epoch.ReceivePlan().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(epoch.suspect(), 2) << status;
  });
}

TEST(NcclLossTest, ARankThatDiesWhileNcclConnectsIsTheSuspect) {
  NcclThreads threads(SmallShape(3, 1));
  threads.nccl.never_ready = {0, 1, 2};
  threads.MakeEpoch(1);
  threads.nccl.fail = [&](int rank, NcclCall call, int nth) {
    const bool dies = rank == 1 && call == NcclCall::kPoll && nth > 3;
    return dies ? absl::InternalError("no luck") : absl::OkStatus();
  };
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    const absl::Status status = epoch.Connect();
    if (rank == 1) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
      EXPECT_THAT(status.ToString(), HasSubstr("no luck (while NCCL connects the ranks)"));
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  });
}

// ---- Deadlines

TEST(NcclDeadlineTest, ARankThatDoesNotReachALayerIsNamed) {
  NcclThreads threads(SmallShape(4, 1), kShort);
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    ASSERT_TRUE(epoch.BeginStep(3).ok());
    ASSERT_TRUE(RunRingLayer(threads, rank, 3, 0).ok());
    // Rank 3's engine hangs, its watch does not.
    const absl::Status status =
        rank == 3 ? epoch.Await([] { return false; }) : RunRingLayer(threads, rank, 3, 1);
    if (rank == 1) return;  // it had what it needs
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(epoch.suspect(), 3) << "as rank " << rank << " sees it: " << status;
    if (rank != 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.ToString(),
                HasSubstr("rank 3 is late: step 3 is late, and it has only come to layer 0"));
  });
}

TEST(NcclDeadlineTest, ARankThatSaysNothingIsNamed) {
  NcclThreads threads(SmallShape(3, 1), kShort);
  threads.MakeEpoch(1);
  threads.ConnectAll();
  std::latch named(2);
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    if (rank == 2) {
      named.wait();  // as a stopped process, it does not know of the step
      return;
    }
    ASSERT_TRUE(epoch.BeginStep(3).ok());
    const absl::Status status =
        rank == 0 ? RunRingLayer(threads, rank, 3, 0) : epoch.Await([] { return false; });
    EXPECT_EQ(epoch.suspect(), 2) << status;
    if (rank == 0) {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
      EXPECT_THAT(status.ToString(), HasSubstr("rank 2 hangs: step 3 is late"));
    }
    named.count_down();
  });
}

TEST(NcclDeadlineTest, ARankThatWaitsAloneIsNamedByRankZero) {
  NcclThreads threads(SmallShape(2, 1), kShort);
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    if (rank == 0) return;  // its watch sees nothing wrong for kLatePatience
    NcclEpoch& epoch = *threads.epochs[rank];
    ASSERT_TRUE(epoch.BeginStep(3).ok());
    const absl::Status status = epoch.Await([] { return false; });
    // Rank 0 is not in the step, so it says that rank 1 is late.
    EXPECT_EQ(epoch.suspect(), 1) << status;
  });
  EXPECT_THAT(threads.epochs[0]->status().ToString(),
              HasSubstr("rank 1 is late: it says that it waits at the start of step 3"));
}

TEST(NcclDeadlineTest, NcclThatNeverConnectsIsToldInWords) {
  NcclThreads threads(SmallShape(2, 1), absl::Minutes(2), kShort);
  threads.nccl.never_ready = {0, 1};
  threads.MakeEpoch(1);
  threads.RunAll([&](int rank) {
    const absl::Status status = threads.epochs[rank]->Connect();
    EXPECT_EQ(threads.epochs[rank]->suspect(), -1) << status;
    if (rank != 0) return;
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.ToString(), HasSubstr("NCCL did not connect the ranks in time"));
  });
}

TEST(NcclDeadlineTest, AStepThatEndsInTimeStopsItsClock) {
  NcclThreads threads(SmallShape(2, 1), kShort);
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    ASSERT_TRUE(epoch.BeginStep(3).ok());
    ASSERT_TRUE(epoch.EndStep().ok());
    const Clock::time_point past = After(2 * kShort);
    const absl::Status status = epoch.Await([&] { return Clock::now() > past; });
    EXPECT_TRUE(status.ok()) << status;
  });
}

// ---- Aborts

TEST(NcclAbortTest, AbortEndsEveryWait) {
  NcclThreads threads(SmallShape(2, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    if (rank == 1) {
      // It waits for a plan.
      EXPECT_FALSE(epoch.ReceivePlan().ok());
      return;
    }
    ASSERT_TRUE(epoch.BeginStep(1).ok());
    std::thread other([&] { epoch.Abort("the controller said so"); });
    const absl::Status status = RunRingLayer(threads, rank, 1, 0);  // rank 1 never comes
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("the controller said so"));
    other.join();
  });
  EXPECT_EQ(threads.epochs[1]->suspect(), -1);  // it is nobody's fault
  threads.nccl.AwaitNoCommunicators();
}

TEST(NcclAbortTest, AbortWhileRanksJoinEndsConnect) {
  NcclThreads threads(SmallShape(2, 1));
  threads.nccl.never_ready = {0, 1};
  threads.MakeEpoch(1);
  std::latch connecting(1);
  threads.nccl.fail = [&](int rank, NcclCall call, int nth) {
    if (rank == 0 && call == NcclCall::kPoll && nth == 3) connecting.count_down();
    return absl::OkStatus();
  };
  std::thread other([&] {
    connecting.wait();
    threads.epochs[0]->Abort("enough");
  });
  threads.RunAll([&](int rank) {
    const absl::Status status = threads.epochs[rank]->Connect();
    EXPECT_EQ(status.code(),
              rank == 0 ? absl::StatusCode::kAborted : absl::StatusCode::kUnavailable)
        << status;
  });
  other.join();
}

TEST(NcclAbortTest, AbortBeforeConnectKeepsARankOut) {
  NcclThreads threads(SmallShape(2, 1));
  threads.MakeEpoch(1);
  threads.epochs[0]->Abort("not today");
  EXPECT_EQ(threads.epochs[0]->Connect().code(), absl::StatusCode::kAborted);
}

// ---- Errors of NCCL

TEST(NcclErrorTest, AnErrorOfAnyCallEndsTheEpochForAllWithNcclsWords) {
  for (const NcclCall call : {NcclCall::kConnect, NcclCall::kRegister, NcclCall::kGroupStart,
                              NcclCall::kSend, NcclCall::kReceive, NcclCall::kGroupEnd}) {
    SCOPED_TRACE(absl::StrCat("call ", static_cast<int>(call)));
    NcclThreads threads(SmallShape(3, 1));
    threads.MakeEpoch(1);
    threads.nccl.fail = [call](int rank, NcclCall made, int) {
      return rank == 1 && made == call ? absl::InternalError("no luck") : absl::OkStatus();
    };
    threads.RunAll([&](int rank) {
      NcclEpoch& epoch = *threads.epochs[rank];
      char buffer = 0;
      absl::Status status = epoch.Connect();
      if (status.ok()) status = epoch.Register(&buffer, 1);
      for (uint64_t step = 1; status.ok(); ++step) status = RunRingStep(threads, rank, step);
      if (rank == 1) {
        EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
        EXPECT_THAT(status.ToString(), HasSubstr("no luck"));
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      }
    });
    threads.nccl.AwaitNoCommunicators();
  }
}

TEST(NcclErrorTest, AnErrorThatComesUpLaterEndsTheEpochAtAnyPoint) {
  for (const bool in_step : {false, true}) {
    NcclThreads threads(SmallShape(2, 1));
    threads.MakeEpoch(1);
    threads.ConnectAll();
    threads.RunAll([&](int rank) {
      NcclEpoch& epoch = *threads.epochs[rank];
      if (in_step) {
        ASSERT_TRUE(epoch.BeginStep(8).ok());
      }
      if (rank == 1) threads.nccl.Break(1, absl::UnavailableError("NCCL: remote error"));
      const absl::Status status = epoch.Await([] { return false; });
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      if (rank == 1) {
        EXPECT_THAT(status.ToString(), HasSubstr(in_step ? "remote error (at the start of step 8)"
                                                         : "remote error (between two steps)"));
      }
    });
  }
}

TEST(NcclErrorTest, AnErrorOfTheDeviceIsThisRanksFault) {
  NcclThreads threads(SmallShape(2, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.RunAll([&](int rank) {
    NcclEpoch& epoch = *threads.epochs[rank];
    const absl::Status status = epoch.Await([&]() -> absl::StatusOr<bool> {
      if (rank == 1) return absl::DataLossError("the GPU is lost");
      return false;
    });
    EXPECT_EQ(epoch.suspect(), 1) << status;
    EXPECT_EQ(status.code(),
              rank == 1 ? absl::StatusCode::kDataLoss : absl::StatusCode::kUnavailable);
  });
}

TEST(NcclErrorTest, NoIdNoEpoch) {
  NcclThreads threads(SmallShape(1, 1));
  threads.nccl.fail = [](int, NcclCall call, int) {
    return call == NcclCall::kMakeId ? absl::InternalError("no socket") : absl::OkStatus();
  };
  NcclEpochOptions options = threads.options;
  options.control.listener = threads.listeners[0].get();
  EXPECT_EQ(NcclEpoch::Create(threads.shape, 1, threads.apis[0].get(), options).status().code(),
            absl::StatusCode::kInternal);
}

TEST(NcclErrorTest, NothingThatIsToldHoldsTheSecret) {
  NcclThreads threads(SmallShape(2, 1));
  threads.MakeEpoch(1);
  threads.ConnectAll();
  threads.nccl.Break(1, absl::InternalError("bad"));
  threads.RunAll([&](int rank) {
    const absl::Status status = threads.epochs[rank]->Await([] { return false; });
    EXPECT_THAT(status.ToString(), Not(HasSubstr("id 0")));
    EXPECT_EQ(threads.epochs[1]->bootstrap(), "");
  });
}

}  // namespace
}  // namespace moe::exchange
