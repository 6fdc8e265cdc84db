#include "runtime/pod_runtime.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

WorkerPod Live(int slot, int incarnation, const std::string& uid) {
  return {.slot = slot,
          .incarnation = incarnation,
          .uid = uid,
          .ended = false,
          .description = "",
          .last_lines = ""};
}

WorkerPod Ended(int slot, int incarnation, const std::string& uid) {
  return {.slot = slot,
          .incarnation = incarnation,
          .uid = uid,
          .ended = true,
          .description = "exited with status 1",
          .last_lines = "its last words"};
}

// A group of two: rank 0 is the pod of slot 1, rank 1 that of slot 0.
class PodRuntimeTest : public ::testing::Test {
 protected:
  void Connect() {
    runtime_.SetCallbacks({.on_exit =
                               [this](const WorkerExit& exit) {
                                 log_.push_back(absl::StrCat("exit ", exit.slot, " ",
                                                             exit.worker_id, " ",
                                                             exit.description));
                               },
                           .on_started =
                               [this](int rank, const std::string& uid) {
                                 log_.push_back(absl::StrCat("start ", rank, " ", uid));
                               }});
  }
  std::vector<std::string> TakeLog() { return std::exchange(log_, {}); }

  int num_changes_ = 0;
  std::vector<std::string> log_;
  PodRuntime runtime_{{1, 0}, [this] { ++num_changes_; }};
};

// A group of four in two pods: ranks 0 and 1 are the pod of slot 1, ranks 2 and 3 that of slot 0.
class SharedPodTest : public PodRuntimeTest {
 protected:
  void Connect() {
    runtime_.SetCallbacks({.on_exit =
                               [this](const WorkerExit& exit) {
                                 log_.push_back(absl::StrCat("exit ", exit.slot, " ",
                                                             exit.worker_id, " ", exit.description,
                                                             ": ", exit.last_lines));
                               },
                           .on_started =
                               [this](int rank, const std::string& id) {
                                 log_.push_back(absl::StrCat("start ", rank, " ", id));
                               }});
  }

  PodRuntime runtime_{{1, 1, 0, 0}, [this] { ++num_changes_; }};
};

TEST_F(SharedPodTest, AllRanksOfAPodStartAndEndWithIt) {
  Connect();
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 2 a/0", "start 3 a/1", "start 0 b/0", "start 1 b/1"));
  runtime_.Observe({Live(0, 0, "a"), Ended(1, 0, "b")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 0 b/0 exited with status 1: its last words",
                                     "exit 1 b/1 exited with status 1: its last words"));
  runtime_.Observe({Live(0, 0, "a")});
  EXPECT_THAT(TakeLog(), IsEmpty());
}

TEST_F(SharedPodTest, ThePodIsWantedOnceWhicheverOfItsRanksAsks) {
  Connect();
  ASSERT_TRUE(runtime_.StartWorker(3).ok());
  ASSERT_TRUE(runtime_.StartWorker(2).ok());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(0));
  EXPECT_EQ(num_changes_, 1);
  ASSERT_TRUE(runtime_.StartWorker(0).ok());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(0, 1));
}

TEST_F(SharedPodTest, ARankThatAsksWhenItsPodHasComeWantsNoOther) {
  Connect();
  ASSERT_TRUE(runtime_.StartWorker(0).ok());
  runtime_.Observe({Live(1, 1, "b")});
  ASSERT_TRUE(runtime_.StartWorker(1).ok());
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
  // Once that pod has ended it does.
  runtime_.Observe({Ended(1, 1, "b")});
  ASSERT_TRUE(runtime_.StartWorker(1).ok());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(1));
}

TEST_F(SharedPodTest, WhoGivesUpOneProcessGivesUpThePod) {
  Connect();
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b")});
  TakeLog();
  runtime_.Kill("b/1", "it hangs");
  EXPECT_THAT(TakeLog(), ElementsAre("exit 0 b/0 was ended: ", "exit 1 b/1 was ended: "));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"b", "it hangs"}));
  // The group may give up the other one in the same breath: the first reason stays.
  runtime_.Kill("b/0", "it sent no heartbeat");
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"b", "it hangs"}));
}

TEST_F(PodRuntimeTest, AStartIsWantedUntilAPodOfItsSlotIsSeen) {
  Connect();
  const auto answer = runtime_.StartWorker(0);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(*answer, std::nullopt);
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(1));
  EXPECT_EQ(num_changes_, 1);
  runtime_.Observe({Live(1, 1, "a")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 0 a"));
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
  runtime_.Observe({Live(1, 1, "a")});
  EXPECT_THAT(TakeLog(), IsEmpty());
}

TEST_F(PodRuntimeTest, ASpareIsHeardOfOnceItHasARank) {
  Connect();
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b"), Live(2, 0, "spare")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 a", "start 0 b"));
  runtime_.Observe({Live(0, 0, "a"), Ended(1, 0, "b"), Live(2, 0, "spare")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 0 b exited with status 1"));
  ASSERT_TRUE(runtime_.StartWorker(0).ok());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(1));

  runtime_.Assign({2, 0});
  runtime_.Observe({Live(0, 0, "a"), Ended(1, 0, "b"), Live(2, 0, "spare")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 0 spare"));
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
  // What fills the lost slot is a spare one now.
  runtime_.Observe({Live(0, 0, "a"), Live(1, 1, "c"), Live(2, 0, "spare")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  runtime_.Observe({Live(0, 0, "a"), Live(1, 1, "c")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 0 spare was deleted"));
}

TEST_F(PodRuntimeTest, ASpareThatIsGoneBeforeItsRankCameIsWantedAnew) {
  Connect();
  runtime_.Observe({Live(0, 0, "a"), Ended(1, 0, "b")});
  ASSERT_TRUE(runtime_.StartWorker(0).ok());
  TakeLog();
  runtime_.Assign({2, 0});
  runtime_.Observe({Live(0, 0, "a"), Ended(1, 0, "b")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(2));
}

TEST_F(PodRuntimeTest, AGivenUpPodThatLostItsRankIsNotTheRanks) {
  Connect();
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b"), Live(2, 0, "spare")});
  TakeLog();
  runtime_.Kill("b", "it hangs");
  ASSERT_TRUE(runtime_.StartWorker(0).ok());
  EXPECT_THAT(TakeLog(), ElementsAre("exit 0 b was ended"));
  runtime_.Assign({2, 0});
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b"), Live(2, 0, "spare")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 0 spare")) << "its end is told once";
}

TEST_F(PodRuntimeTest, RanksOfAnotherNumberAreNotTaken) {
  Connect();
  runtime_.Assign({});
  runtime_.Assign({1, 0, 2});
  runtime_.Assign({2, 2});
  runtime_.Observe({Live(0, 0, "a"), Live(1, 0, "b"), Live(2, 0, "c")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 a", "start 0 b"));
}

TEST_F(PodRuntimeTest, PodsOfAnEarlierControllerAreReportedWhenTheGroupComes) {
  runtime_.Observe({Live(0, 3, "a"), Live(1, 1, "b")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  Connect();
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 a", "start 0 b"));
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
}

TEST_F(PodRuntimeTest, AnEndIsReportedOnceHoweverLongThePodStays) {
  Connect();
  runtime_.Observe({Live(0, 1, "a")});
  TakeLog();
  runtime_.Observe({Ended(0, 1, "a")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 1 a exited with status 1"));
  runtime_.Observe({Ended(0, 1, "a")});
  runtime_.Observe({});
  EXPECT_THAT(TakeLog(), IsEmpty());
}

TEST_F(PodRuntimeTest, APodThatVanishedWasDeleted) {
  Connect();
  runtime_.Observe({Live(0, 1, "a"), Live(1, 1, "b")});
  TakeLog();
  runtime_.Observe({Live(1, 1, "b")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 1 a was deleted"));
}

TEST_F(PodRuntimeTest, APodThatEndedBeforeItWasSeenCountsAsAFailure) {
  Connect();
  (void)runtime_.StartWorker(1);
  runtime_.Observe({Ended(0, 1, "a")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 a", "exit 1 a exited with status 1"));
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
}

TEST_F(PodRuntimeTest, AGivenUpPodThatHangsInTerminatingBlocksNothing) {
  Connect();
  runtime_.Observe({Live(0, 1, "a")});
  TakeLog();
  runtime_.Kill("a", "it hangs");
  EXPECT_THAT(TakeLog(), ElementsAre("exit 1 a was ended"));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"a", "it hangs"}));
  (void)runtime_.StartWorker(1);
  runtime_.Observe({Live(0, 1, "a")});
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(0));
  runtime_.Observe({Live(0, 1, "a"), Live(0, 2, "b")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 b"));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"a", "it hangs"}));
  // It is gone at last.
  runtime_.Observe({Live(0, 2, "b")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_THAT(runtime_.UnwantedPods(), IsEmpty());
}

TEST_F(PodRuntimeTest, OfTwoPodsOfOneSlotTheHigherIncarnationCounts) {
  runtime_.Observe({Live(0, 2, "new"), Live(0, 1, "old"), Ended(1, 4, "older"), Live(1, 5, "b")});
  Connect();
  EXPECT_THAT(TakeLog(), ElementsAre("start 0 b", "start 1 new"));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"old", ""}));
  // Also when the higher one comes later.
  runtime_.Observe({Live(0, 2, "new"), Live(0, 3, "newest"), Live(1, 5, "b")});
  EXPECT_THAT(TakeLog(), ElementsAre("exit 1 new was replaced by another pod", "start 1 newest"));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"new", ""}));
}

TEST_F(PodRuntimeTest, APodBelowTheClaimNeverCountsEvenIfItIsTheOnlyOne) {
  Connect();
  runtime_.StartWorker(1).IgnoreError();
  runtime_.RaiseIncarnations({3, 0});
  // Made late, by a leader that is gone.
  runtime_.Observe({Live(0, 2, "late")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_THAT(runtime_.WantedSlots(), ElementsAre(0));
  EXPECT_THAT(runtime_.UnwantedPods(), ElementsAre(UnwantedPod{"late", ""}));
  runtime_.Observe({Live(0, 2, "late"), Live(0, 3, "claimed")});
  EXPECT_THAT(TakeLog(), ElementsAre("start 1 claimed"));
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
}

TEST_F(PodRuntimeTest, ASlotThatNoRankHasIsNotOurs) {
  Connect();
  runtime_.Observe({Live(7, 1, "spare")});
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_EQ(runtime_.StartWorker(2).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PodRuntimeTest, AfterStopAllNobodyIsCalledAndNothingIsWanted) {
  Connect();
  (void)runtime_.StartWorker(0);
  runtime_.Observe({Live(0, 1, "a")});
  TakeLog();
  runtime_.StopAll(absl::Seconds(1));
  runtime_.Observe({});
  runtime_.Kill("a", "it hangs");
  EXPECT_THAT(TakeLog(), IsEmpty());
  EXPECT_THAT(runtime_.WantedSlots(), IsEmpty());
  EXPECT_EQ(runtime_.StartWorker(0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PodRuntimeTest, AKillAndAnObservedEndAtOnceGiveOneExit) {
  for (int i = 0; i < 200; ++i) {
    Connect();
    const std::string uid = absl::StrCat("pod-", i);
    runtime_.Observe({Live(0, i, uid)});
    std::thread killer([&] { runtime_.Kill(uid, "it hangs"); });
    runtime_.Observe({Ended(0, i, uid)});
    killer.join();
    int num_exits = 0;
    for (const std::string& line : TakeLog()) num_exits += line.starts_with("exit 1 " + uid + " ");
    EXPECT_EQ(num_exits, 1);
  }
}

}  // namespace
}  // namespace moe::runtime
