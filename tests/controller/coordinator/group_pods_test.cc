// What a group does where its processes are pods: told later than they are asked for, found after a
// takeover, drained, and on several machines.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/coordinator/group_fixture.h"

namespace moe::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A group whose processes are told later: Step must not answer StartWorker.
class PodGroupTest : public GroupTest {
 protected:
  std::vector<Action> PlainStep(const Event& event) { return group_->Step(event, now_); }
  void Started(int slot, const std::string& id) {
    ids_[slot] = id;
    ++starts_[slot];
    PlainStep(WorkerStarted{slot, id});
  }
};

TEST_F(PodGroupTest, AProcessThatIsToldMuchLaterIsAskedForOnce) {
  Make(2);
  EXPECT_THAT(Only<StartWorker>(PlainStep(Tick{})), SizeIs(2));
  for (int i = 0; i < 100; ++i) {
    now_ += absl::Seconds(1);
    EXPECT_THAT(PlainStep(Tick{}), IsEmpty());
  }
  Started(1, "pod-b");
  Started(0, "pod-a");
  for (int slot : {0, 1}) {
    Hello(slot);
    Loaded(slot);
  }
  EXPECT_THAT(claims_, ElementsAre(1));
}

TEST_F(PodGroupTest, APodOfAnEarlierControllerIsNotStartedAgain) {
  Make(2);
  Started(1, "pod-b");
  const std::vector<StartWorker> starts = Only<StartWorker>(PlainStep(Tick{}));
  ASSERT_THAT(starts, SizeIs(1));
  EXPECT_EQ(starts[0].slot, 0);
}

TEST_F(PodGroupTest, APodThatTakesTheSlotOfAnotherEndsItsEpoch) {
  MakeActive(2);
  std::vector<Action> actions = PlainStep(WorkerStarted{1, "pod-new"});
  EXPECT_THAT(Only<StartWorker>(actions), IsEmpty());
  EXPECT_EQ(group_->phase(), v1::GroupState::RECOVERING);
  EXPECT_EQ(group_->State().workers(1).worker_id(), "pod-new");
  EXPECT_EQ(group_->State().workers(1).num_failures(), 1u);
  // To be told twice of the same one is nothing.
  EXPECT_THAT(PlainStep(WorkerStarted{1, "pod-new"}), IsEmpty());
  EXPECT_EQ(group_->State().workers(1).num_failures(), 1u);
}

TEST_F(PodGroupTest, APodOfSeveralRanksThatIsLostCountsOnceAgainstTheBudget) {
  MakeActive(4);
  for (int loss = 1; loss <= 5; ++loss) {
    for (const int rank : {2, 3}) {
      PlainStep(WorkerExited{rank, ids_[rank], "exited with status 1", ""});
      EXPECT_EQ(group_->State().workers(rank).num_failures(), static_cast<uint32_t>(loss));
      EXPECT_EQ(group_->phase() == v1::GroupState::FAILED, loss == 5) << "loss " << loss;
      if (loss == 5) return;
    }
    now_ += absl::Minutes(1);
    PlainStep(Tick{});
    for (const int rank : {2, 3}) Started(rank, absl::StrCat("pod-", loss, "/", rank - 2));
  }
}

TEST_F(PodGroupTest, AnUnknownWorkerIsDismissedOrToldToTryAgain) {
  v1::WorkerMessage message;
  message.mutable_hello()->set_worker_id("pod-x");
  message.mutable_hello()->set_numerics_id("cpu-1");
  Make(1);
  std::vector<Action> actions = PlainStep(SessionMessage{77, message});
  EXPECT_THAT(Only<SendMessage>(actions), SizeIs(1));
  ASSERT_THAT(Only<CloseSession>(actions), SizeIs(1));
  EXPECT_EQ(Only<CloseSession>(actions)[0].retry_reason, "");

  GroupOptions options;
  options.retry_unknown_workers = true;
  Make(1, options);
  actions = PlainStep(SessionMessage{77, message});
  EXPECT_THAT(Only<SendMessage>(actions), IsEmpty());
  ASSERT_THAT(Only<CloseSession>(actions), SizeIs(1));
  EXPECT_THAT(Only<CloseSession>(actions)[0].retry_reason, HasSubstr("no rank yet"));
}

TEST_F(PodGroupTest, APodThatIsBeingDeletedIsDismissedWhileItsProcessLives) {
  GroupOptions options;
  options.retry_unknown_workers = true;
  MakeActive(2, options);
  const uint64_t session = sessions_[1];
  const std::vector<Action> actions = PlainStep(WorkerExited{1, ids_[1], "is being deleted", ""});
  std::vector<uint64_t> dismissed;
  for (const SendMessage& send : Only<SendMessage>(actions)) {
    if (send.message.has_dismiss()) dismissed.push_back(send.session);
  }
  EXPECT_THAT(dismissed, ElementsAre(session));
}

TEST_F(PodGroupTest, TheFirstHelloMayTakeLongerThanALostSession) {
  GroupOptions options;
  options.hello_deadline = absl::Minutes(30);
  options.reconnect_deadline = absl::Seconds(20);
  Make(2, options);
  Step(Tick{});
  Hello(0);
  Loaded(0);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Minutes(29))), IsEmpty());
  const uint64_t session = sessions_[0];
  sessions_.erase(0);
  Step(SessionClosed{session});
  const std::vector<KillWorker> kills = Only<KillWorker>(Advance(absl::Seconds(21)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 0);
  EXPECT_THAT(kills[0].reason, HasSubstr("20s"));
}

TEST_F(GroupTest, TheStateTellsNameDrainingAndWhatTheLeaderComputes) {
  GroupOptions options;
  options.name = "ns/a/3";
  options.exchange = v1::EXCHANGE_TCP;
  MakeActive(2, options);
  EXPECT_EQ(group_->spec().exchange(), v1::EXCHANGE_TCP);
  const auto beat = [this](int slot, uint32_t running, uint32_t waiting) {
    v1::WorkerMessage message;
    message.mutable_heartbeat()->set_num_running(running);
    message.mutable_heartbeat()->set_num_waiting(waiting);
    Step(SessionMessage{sessions_[slot], message});
  };
  beat(0, 5, 2);
  beat(1, 77, 77);
  v1::GroupState state = group_->State();
  EXPECT_EQ(state.group(), "ns/a/3");
  EXPECT_EQ(state.num_running(), 5u);
  EXPECT_EQ(state.num_waiting(), 2u);
  EXPECT_FALSE(state.draining());

  const uint64_t version = group_->version();
  EXPECT_THAT(Step(DrainRequested{}), IsEmpty());
  EXPECT_GT(group_->version(), version);
  state = group_->State();
  EXPECT_TRUE(state.draining());
  EXPECT_EQ(state.phase(), v1::GroupState::ACTIVE);
  // It goes on draining over a failure.
  Exit(1);
  EXPECT_TRUE(group_->State().draining());
}

TEST_F(GroupTest, PrepareCarriesTheExchangeAddressOfEachMember) {
  Make(2);
  Step(Tick{});
  std::vector<Action> actions;
  for (int slot : {0, 1}) {
    v1::WorkerMessage hello = HelloOf(slot);
    hello.mutable_hello()->set_exchange_address(absl::StrCat("10.0.0.", slot, ":7711"));
    sessions_[slot] = ++last_session_;
    Step(SessionMessage{last_session_, hello});
    actions = Loaded(slot);
  }
  int num_prepares = 0;
  for (const SendMessage& send : Only<SendMessage>(actions)) {
    if (!send.message.has_prepare()) continue;
    ++num_prepares;
    ASSERT_EQ(send.message.prepare().members_size(), 2);
    for (int slot : {0, 1}) {
      EXPECT_EQ(send.message.prepare().members(slot).exchange_address(),
                absl::StrCat("10.0.0.", slot, ":7711"));
    }
  }
  EXPECT_EQ(num_prepares, 2);
}

// Fault 56, the controller's part; the worker's is in session_state_test.cc.
TEST_F(GroupTest, AnOldBootstrapIsNotHandedToALaterEpoch) {
  MakeActive(2);
  EpochFailed(1, 1, -1);
  Advance(absl::Seconds(1));
  ASSERT_THAT(claims_, ElementsAre(1, 2));
  EXPECT_THAT(Prepared(0, 1, "old secret"), IsEmpty());
  Prepared(1, 2);
  const std::vector<Action> actions = Prepared(0, 2, "new secret");
  const std::vector<SendMessage> sends = Only<SendMessage>(actions);
  ASSERT_THAT(sends, SizeIs(2));
  for (const SendMessage& send : sends) {
    EXPECT_EQ(send.message.join().bootstrap(), "new secret");
  }
}

}  // namespace
}  // namespace moe::coordinator
