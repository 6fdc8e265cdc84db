// Tests controller/coordinator/group.h: the life of a group, and processes that end.
#include "controller/coordinator/group.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/coordinator/group_fixture.h"

namespace moe::coordinator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

TEST_F(GroupTest, AGroupGoesFromStartingToActive) {
  Make(2);
  EXPECT_EQ(group_->phase(), v1::GroupState::STARTING);
  EXPECT_THAT(Only<StartWorker>(Step(Tick{})), SizeIs(2));
  EXPECT_THAT(Sent(Hello(0)), ElementsAre("0:assign 0"));
  EXPECT_EQ(group_->phase(), v1::GroupState::STARTING);
  EXPECT_THAT(Sent(Hello(1)), ElementsAre("1:assign 1"));
  EXPECT_EQ(group_->phase(), v1::GroupState::LOADING);
  EXPECT_THAT(Sent(Loaded(0)), IsEmpty());
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 1", "1:prepare 1"));
  EXPECT_EQ(group_->phase(), v1::GroupState::CONNECTING);
  EXPECT_THAT(Sent(Prepared(1, 1)), IsEmpty());
  const std::vector<Action> joins = Prepared(0, 1, "secret");
  EXPECT_THAT(Sent(joins), ElementsAre("0:join 1", "1:join 1"));
  for (const SendMessage& send : Only<SendMessage>(joins)) {
    EXPECT_EQ(send.message.join().bootstrap(), "secret");
  }
  EXPECT_THAT(Sent(Joined(0, 1)), IsEmpty());
  EXPECT_THAT(group_->State().leader_address(), IsEmpty());
  EXPECT_THAT(Sent(Joined(1, 1)), ElementsAre("0:activate 1", "1:activate 1"));

  const v1::GroupState state = group_->State();
  EXPECT_EQ(state.phase(), v1::GroupState::ACTIVE);
  EXPECT_EQ(state.epoch(), 1u);
  EXPECT_EQ(state.leader_address(), "unix:engine-0");
  EXPECT_EQ(state.layout(), "EP2_TP1_PP1_DP1");
  EXPECT_EQ(state.kv_capacity_tokens(), 640u);
  EXPECT_EQ(state.numerics_id(), "cpu-1");
  EXPECT_EQ(state.load_bytes_done(), 200u);
  EXPECT_TRUE(state.workers(0).owns_sequences());
  EXPECT_FALSE(state.workers(1).owns_sequences());
  EXPECT_THAT(state.workers(1).experts(), ElementsAre(2, 3));
}

TEST_F(GroupTest, PrepareNamesEachMemberOnceWithItsNonce) {
  Make(3);
  Step(Tick{});
  for (int slot : {2, 0, 1}) Hello(slot);
  Loaded(0);
  Loaded(1);
  const auto sent = Only<SendMessage>(Loaded(2));
  ASSERT_THAT(sent, SizeIs(3));
  const v1::Prepare& prepare = sent[0].message.prepare();
  ASSERT_EQ(prepare.members_size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(static_cast<int>(prepare.members(i).slot()), i);
    EXPECT_EQ(prepare.members(i).worker_id(), ids_[i]);
    EXPECT_EQ(prepare.members(i).nonce(), HelloOf(i).hello().nonce());
  }
}

TEST_F(GroupTest, AWorkerThatDiesIsReplacedAtOnceInANewEpoch) {
  MakeActive(3);
  const auto actions = Exit(1);
  EXPECT_THAT(Sent(actions), ElementsAre("0:abort 1", "2:abort 1"));
  EXPECT_THAT(Only<StartWorker>(actions), SizeIs(1));
  EXPECT_EQ(group_->phase(), v1::GroupState::RECOVERING);
  Hello(1);
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 2", "1:prepare 2", "2:prepare 2"));
  Form();
  EXPECT_EQ(group_->State().workers(1).num_failures(), 1u);
}

TEST_F(GroupTest, WorkersThatDieTogetherCostOneEpoch) {
  MakeActive(4);
  for (int slot : {0, 2, 3}) Exit(slot);
  for (int slot : {3, 0, 2}) {
    Hello(slot);
    Loaded(slot);
  }
  EXPECT_THAT(claims_, ElementsAre(1, 2));
  Form();
}

TEST_F(GroupTest, DeathAtEveryStageEndsTheEpochAndTheNextOneForms) {
  for (int stage = 0; stage < 5; ++stage) {
    SCOPED_TRACE(stage);
    sessions_.clear();
    claims_.clear();
    Make(2);
    LoadAll();
    if (stage >= 1) Prepared(0, 1, "secret");
    if (stage >= 2) Prepared(1, 1);
    if (stage >= 3) Joined(0, 1);
    if (stage >= 4) Joined(1, 1);
    EXPECT_THAT(Sent(Exit(1)), ElementsAre("0:abort 1"));
    Hello(1);
    EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 2", "1:prepare 2"));
    // Answers to the old epoch mean nothing in the new one.
    EXPECT_THAT(Sent(Prepared(0, 1, "old")), IsEmpty());
    EXPECT_THAT(Sent(Joined(0, 1)), IsEmpty());
    Form();
  }
}

TEST_F(GroupTest, RestartsBackOffAndTheFifthFailureEndsTheGroup) {
  MakeActive(2);
  const absl::Duration kPauses[] = {absl::ZeroDuration(), absl::Milliseconds(500), absl::Seconds(1),
                                    absl::Seconds(2)};
  for (const absl::Duration pause : kPauses) {
    const int before = starts_[1];
    auto actions = Exit(1, "exited with status 3");
    if (pause > absl::ZeroDuration()) {
      EXPECT_THAT(Only<StartWorker>(actions), IsEmpty());
      Advance(pause - absl::Milliseconds(100));
      EXPECT_EQ(starts_[1], before);
      Advance(absl::Milliseconds(200));
    }
    EXPECT_EQ(starts_[1], before + 1);
    Hello(1);
  }
  const auto give_up = Only<GiveUp>(Exit(1, "exited with status 3"));
  ASSERT_THAT(give_up, SizeIs(1));
  EXPECT_THAT(give_up[0].reason,
              AllOf(StartsWith("worker 1 failed 5 times within 10m; the last time it exited with "
                               "status 3"),
                    HasSubstr("line one\nline two")));
  EXPECT_EQ(group_->phase(), v1::GroupState::FAILED);
  EXPECT_EQ(group_->State().reason(), give_up[0].reason);
  EXPECT_THAT(Only<StartWorker>(Advance(absl::Seconds(30))), IsEmpty());
}

TEST_F(GroupTest, FailuresThatAreLongPastAreForgiven) {
  MakeActive(2);
  for (int i = 0; i < 12; ++i) {
    const auto actions = Exit(1);
    EXPECT_THAT(Only<GiveUp>(actions), IsEmpty());
    Advance(absl::Seconds(3));
    Hello(1);
    Loaded(1);
    Form();
    Advance(absl::Minutes(3));
  }
  EXPECT_EQ(group_->State().workers(1).num_failures(), 12u);
}

TEST_F(GroupTest, FailuresOfDifferentSlotsAreNotAddedUp) {
  MakeActive(4);
  for (int round = 0; round < 4; ++round) {
    for (int slot = 0; slot < 4; ++slot) {
      EXPECT_THAT(Only<GiveUp>(Exit(slot)), IsEmpty());
      Advance(absl::Seconds(3));
      Hello(slot);
      Loaded(slot);
    }
  }
}

TEST_F(GroupTest, AProgramThatCannotBeStartedIsAFailureWithItsReason) {
  GroupOptions options;
  options.max_slot_failures = 2;
  Make(1, options);
  auto actions = group_->Step(Tick{}, now_);
  ASSERT_THAT(Only<StartWorker>(actions), SizeIs(1));
  actions = group_->Step(WorkerStartFailed{0, "cannot run /none"}, now_);
  ASSERT_THAT(Only<StartWorker>(actions), SizeIs(1));
  actions = group_->Step(WorkerStartFailed{0, "cannot run /none"}, now_);
  ASSERT_THAT(Only<GiveUp>(actions), SizeIs(1));
  EXPECT_THAT(Only<GiveUp>(actions)[0].reason, HasSubstr("could not be started: cannot run /none"));
}

TEST_F(GroupTest, UnableEndsTheGroupWithTheWorkersOwnWords) {
  Make(2);
  Step(Tick{});
  Hello(1);
  v1::WorkerMessage message;
  message.mutable_unable()->set_reason("model.safetensors: tensor x is missing");
  const auto give_up = Only<GiveUp>(Step(SessionMessage{sessions_[1], message}));
  ASSERT_THAT(give_up, SizeIs(1));
  EXPECT_EQ(give_up[0].reason, "worker 1: model.safetensors: tensor x is missing");
  EXPECT_THAT(Only<StartWorker>(Exit(1, "exited with status 1")), IsEmpty());
}

TEST_F(GroupTest, TimeInWhichTheControllerSleptIsNobodysSilence) {
  MakeActive(2);
  heartbeats_ = false;
  now_ += absl::Hours(8);
  EXPECT_THAT(Only<KillWorker>(Step(Tick{})), IsEmpty());
  heartbeats_ = true;
  Advance(absl::Seconds(20));
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
}

TEST_F(GroupTest, AClockThatGoesBackDoesNoHarm) {
  MakeActive(2);
  now_ -= absl::Hours(1);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(30))), IsEmpty());
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
}

TEST_F(GroupTest, StoppingTellsTheWorkersAndStartsNone) {
  MakeActive(2);
  const auto actions = Step(StopRequested{});
  EXPECT_THAT(Sent(actions),
              ElementsAre("0:abort 1", "1:abort 1", "0:dismiss the group is stopping",
                          "1:dismiss the group is stopping"));
  EXPECT_EQ(group_->phase(), v1::GroupState::STOPPING);
  EXPECT_THAT(Only<StartWorker>(Exit(0)), IsEmpty());
  EXPECT_THAT(Only<StartWorker>(Advance(absl::Seconds(30))), IsEmpty());
  EXPECT_EQ(group_->State().workers(0).num_failures(), 0u);
}

TEST_F(GroupTest, ExpertTokensOutliveTheProcessThatCountedThem) {
  MakeActive(2);
  const auto beat = [&](int slot, std::vector<uint64_t> tokens) {
    v1::WorkerMessage message;
    message.mutable_heartbeat()->mutable_expert_tokens()->Assign(tokens.begin(), tokens.end());
    Step(SessionMessage{sessions_[slot], message});
  };
  beat(0, {1, 2});
  beat(1, {3, 4});
  Exit(1);
  Hello(1);
  beat(1, {10, 20});
  beat(1, {1, 2, 3});  // of the wrong size
  EXPECT_THAT(group_->State().expert_tokens(), ElementsAre(1, 2, 13, 24));
}

TEST_F(GroupTest, OneWarningOfManyWorkersIsShownOnce) {
  Make(3);
  Step(Tick{});
  int num_lines = 0;
  for (int slot = 0; slot < 3; ++slot) {
    Hello(slot);
    v1::WorkerMessage message;
    message.mutable_loaded()->add_warnings("tensor x holds NaN");
    for (const LogLine& line : Only<LogLine>(Step(SessionMessage{sessions_[slot], message}))) {
      num_lines += line.text.find("NaN") != std::string::npos ? 1 : 0;
    }
  }
  EXPECT_EQ(num_lines, 1);
}

}  // namespace
}  // namespace moe::coordinator
