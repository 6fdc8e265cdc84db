#include "worker/exchange/nccl/nccl_session.h"

#include <array>
#include <atomic>
#include <functional>
#include <latch>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/nccl/fake_nccl.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// Two ranks on one thread: a transfer is under way until the other rank enqueues its end.
class NcclSessionTest : public testing::Test {
 protected:
  void ConnectBoth() {
    const auto id = apis_[0].MakeId();
    ASSERT_TRUE(id.ok());
    for (int rank : {0, 1}) {
      ASSERT_TRUE(sessions_[rank].Connect(&apis_[rank], *id, 2, rank).ok());
    }
    for (NcclSession& session : sessions_) ASSERT_TRUE(session.IsReady().value_or(false));
  }
  std::vector<Transfer> Sends() {
    return {{.kind = Transfer::Kind::kSend, .peer = 1, .from = from_.data(), .num_bytes = 4}};
  }
  std::vector<Transfer> Receives() {
    return {{.kind = Transfer::Kind::kReceive, .peer = 0, .to = to_.data(), .num_bytes = 4}};
  }
  void FailAt(NcclCall call) {
    nccl_.fail = [call](int rank, NcclCall made, int) {
      return rank == 0 && made == call ? absl::InternalError("no luck") : absl::OkStatus();
    };
  }
  void TearDown() override {
    for (NcclSession& session : sessions_) session.Abort();
    EXPECT_EQ(nccl_.num_communicators(), 0);
    EXPECT_EQ(nccl_.num_registrations(), 0);
    EXPECT_THAT(nccl_.violations(), testing::IsEmpty());
  }

  FakeNccl nccl_;
  std::array<FakeNcclApi, 2> apis_ = {FakeNcclApi(&nccl_, 0), FakeNcclApi(&nccl_, 1)};
  std::array<NcclSession, 2> sessions_;
  std::array<char, 4> from_ = {'r', 'o', 'w', 's'};
  std::array<char, 4> to_ = {};
};

TEST_F(NcclSessionTest, ItIsReadyWhenAllRanksAreThere) {
  const auto id = apis_[0].MakeId();
  ASSERT_TRUE(id.ok());
  ASSERT_TRUE(sessions_[0].Connect(&apis_[0], *id, 2, 0).ok());
  EXPECT_FALSE(sessions_[0].IsReady().value_or(true));
  EXPECT_EQ(sessions_[0].Enqueue(Sends()).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(sessions_[1].Connect(&apis_[1], *id, 2, 1).ok());
  EXPECT_TRUE(sessions_[0].IsReady().value_or(false));
  EXPECT_EQ(sessions_[0].Connect(&apis_[0], *id, 2, 0).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(NcclSessionTest, TransfersAreOneGroupAndUnderWayUntilTheOtherEndIsThere) {
  ConnectBoth();
  ASSERT_TRUE(sessions_[0].Enqueue(Sends()).ok());
  EXPECT_FALSE(sessions_[0].IsReady().value_or(true));
  EXPECT_EQ(sessions_[0].Enqueue(Sends()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(sessions_[0].Register(from_.data(), 4).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(sessions_[1].Enqueue(Receives()).ok());
  EXPECT_TRUE(sessions_[0].IsReady().value_or(false));
  EXPECT_EQ(to_, from_);
  EXPECT_THAT(nccl_.calls(0),
              testing::ElementsAre(NcclCall::kMakeId, NcclCall::kConnect, NcclCall::kGroupStart,
                                   NcclCall::kSend, NcclCall::kGroupEnd));
}

TEST_F(NcclSessionTest, AnAbortWaitsForGraphsAndKeepsNobodyElseWaiting) {
  std::function<void()> graph;
  apis_[0].UseStream({.enqueue = [&graph](std::function<void()> work) { graph = std::move(work); },
                      .is_capturing = [] { return true; }});
  ConnectBoth();
  ASSERT_TRUE(sessions_[0].Enqueue(Sends()).ok());
  EXPECT_FALSE(sessions_[0].IsReady().value_or(true));
  EXPECT_TRUE(sessions_[0].IsReady().value_or(false));  // it only stands in the graph
  std::thread launch([&] { graph(); });
  ASSERT_TRUE(sessions_[1].Enqueue(Receives()).ok());
  launch.join();
  EXPECT_EQ(to_, from_);
  std::atomic<bool> is_aborted = false;
  std::thread abort([&] {
    sessions_[0].Abort();
    is_aborted = true;
  });
  // The thread that owns the graph gets its answer, and only then gives it up.
  absl::StatusOr<bool> is_ready = true;
  while (is_ready.ok()) is_ready = sessions_[0].IsReady();
  EXPECT_TRUE(absl::IsAborted(is_ready.status()));
  EXPECT_FALSE(is_aborted);
  graph = nullptr;
  abort.join();
}

TEST_F(NcclSessionTest, TheOrderlyEndDeregistersFinalizesAndDestroysInThisOrder) {
  ConnectBoth();
  ASSERT_TRUE(sessions_[0].Register(from_.data(), 4).ok());
  ASSERT_TRUE(sessions_[0].Register(to_.data(), 4).ok());
  EXPECT_EQ(nccl_.num_registrations(), 2);
  ASSERT_TRUE(sessions_[0].BeginClose().ok());
  EXPECT_EQ(sessions_[0].FinishClose().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(sessions_[0].IsReady().value_or(false));
  ASSERT_TRUE(sessions_[0].FinishClose().ok());
  EXPECT_EQ(nccl_.num_communicators(), 1);
  EXPECT_EQ(sessions_[0].Enqueue(Sends()).code(), absl::StatusCode::kFailedPrecondition);
  const std::vector<NcclCall> calls = nccl_.calls(0);
  EXPECT_THAT(std::vector<NcclCall>(calls.end() - 4, calls.end()),
              testing::ElementsAre(NcclCall::kDeregister, NcclCall::kDeregister,
                                   NcclCall::kFinalize, NcclCall::kDestroy));
}

TEST_F(NcclSessionTest, AnErrorOfAnyCallSaysWhatWasDoneAndStays) {
  struct Case {
    NcclCall call;
    std::string words;
  };
  const auto run = [&]() -> absl::Status {
    const auto id = apis_[0].MakeId();
    if (!id.ok()) return id.status();
    NcclSession session;
    NcclSession other;
    if (absl::Status status = session.Connect(&apis_[0], *id, 2, 0); !status.ok()) return status;
    if (absl::Status status = other.Connect(&apis_[1], *id, 2, 1); !status.ok()) return status;
    if (auto ready = session.IsReady(); !ready.ok()) return ready.status();
    if (absl::Status status = session.Register(from_.data(), 4); !status.ok()) return status;
    if (auto ready = other.IsReady(); !ready.ok()) return ready.status();
    const std::vector<Transfer> sends = Sends();
    const std::vector<Transfer> others = {
        {.kind = Transfer::Kind::kAllGather,
         .from = from_.data(),
         .to = from_.data(),
         .num_bytes = 2},
        {.kind = Transfer::Kind::kBroadcast,
         .peer = 1,
         .from = from_.data(),
         .to = from_.data(),
         .num_bytes = 2},
        {.kind = Transfer::Kind::kReceive, .peer = 1, .to = to_.data(), .num_bytes = 4}};
    absl::Status status = session.Enqueue(nccl_.fail(0, NcclCall::kSend, 0).ok() ? others : sends);
    if (!status.ok()) {
      EXPECT_EQ(session.Enqueue(sends), status);
      EXPECT_EQ(session.IsReady().status(), status);
      return status;
    }
    other.Abort();
    return absl::OkStatus();
  };
  for (const Case& c :
       std::vector<Case>{{NcclCall::kMakeId, "no luck"},
                         {NcclCall::kConnect, "making a communicator: no luck"},
                         {NcclCall::kPoll, "no luck"},
                         {NcclCall::kRegister, "registering a buffer of 4 bytes: no luck"},
                         {NcclCall::kGroupStart, "starting a group: no luck"},
                         {NcclCall::kSend, "sending to rank 1: no luck"},
                         {NcclCall::kReceive, "receiving from rank 1: no luck"},
                         {NcclCall::kAllGather, "gathering from all ranks: no luck"},
                         {NcclCall::kBroadcast, "broadcasting from rank 1: no luck"},
                         {NcclCall::kGroupEnd, "ending a group: no luck"}}) {
    FailAt(c.call);
    const absl::Status status = run();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.words;
    EXPECT_EQ(status.message(), c.words);
  }
}

TEST_F(NcclSessionTest, AnErrorOfTheOrderlyEndIsTold) {
  for (const NcclCall call : {NcclCall::kDeregister, NcclCall::kFinalize, NcclCall::kDestroy}) {
    FailAt(call);
    NcclSession session;
    NcclSession other;
    const auto id = apis_[1].MakeId();
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(session.Connect(&apis_[0], *id, 2, 0).ok());
    ASSERT_TRUE(other.Connect(&apis_[1], *id, 2, 1).ok());
    ASSERT_TRUE(session.IsReady().value_or(false));
    ASSERT_TRUE(session.Register(from_.data(), 4).ok());
    absl::Status status = session.BeginClose();
    if (status.ok()) {
      ASSERT_TRUE(session.IsReady().value_or(false));
      status = session.FinishClose();
    }
    EXPECT_THAT(status.ToString(), HasSubstr("no luck"));
  }
}

TEST_F(NcclSessionTest, AGroupIsEndedAlsoAfterAnError) {
  ConnectBoth();
  FailAt(NcclCall::kSend);
  EXPECT_FALSE(sessions_[0].Enqueue(Sends()).ok());
  EXPECT_EQ(nccl_.calls(0).back(), NcclCall::kGroupEnd);
}

TEST_F(NcclSessionTest, AnErrorOfAnotherRankIsToldByTheNextLook) {
  ConnectBoth();
  ASSERT_TRUE(sessions_[0].Enqueue(Sends()).ok());
  nccl_.Break(0, absl::UnavailableError("remote process exited"));
  EXPECT_EQ(sessions_[0].IsReady().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sessions_[0].Enqueue(Sends()).code(), absl::StatusCode::kUnavailable);
}

TEST_F(NcclSessionTest, AfterAbortEveryCallSaysSo) {
  ConnectBoth();
  ASSERT_TRUE(sessions_[0].Register(from_.data(), 4).ok());
  ASSERT_TRUE(sessions_[0].Enqueue(Sends()).ok());
  sessions_[0].Abort();
  sessions_[0].Abort();
  EXPECT_EQ(nccl_.num_communicators(), 1);
  EXPECT_EQ(nccl_.num_registrations(), 0);
  EXPECT_EQ(sessions_[0].IsReady().status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(sessions_[0].Enqueue(Sends()).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(sessions_[0].Register(from_.data(), 4).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(sessions_[0].BeginClose().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(sessions_[0].FinishClose().code(), absl::StatusCode::kAborted);
}

TEST_F(NcclSessionTest, AbortBeforeConnectKeepsItFromConnecting) {
  sessions_[0].Abort();
  EXPECT_EQ(sessions_[0].Connect(&apis_[0], {}, 2, 0).code(), absl::StatusCode::kAborted);
}

TEST_F(NcclSessionTest, ThreadsThatLookEnqueueAndAbortTakeTurns) {
  for (int round = 0; round < 50; ++round) {
    NcclSession session;
    NcclSession other;
    const auto id = apis_[0].MakeId();
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(session.Connect(&apis_[0], *id, 2, 0).ok());
    ASSERT_TRUE(other.Connect(&apis_[1], *id, 2, 1).ok());
    std::latch start(3);
    std::thread engine([&] {
      start.arrive_and_wait();
      while (true) {
        const auto ready = session.IsReady();
        if (!ready.ok()) return;
        if (*ready) static_cast<void>(session.Enqueue(Sends()));
      }
    });
    std::thread watch([&] {
      start.arrive_and_wait();
      while (session.IsReady().ok()) std::this_thread::yield();
    });
    start.arrive_and_wait();
    std::this_thread::yield();
    session.Abort();
    engine.join();
    watch.join();
  }
}

}  // namespace
}  // namespace moe::exchange
