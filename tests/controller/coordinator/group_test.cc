#include "controller/coordinator/group.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
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

TEST_F(GroupTest, LosingEverySessionDoesNotEndTheEpoch) {
  MakeActive(3);
  for (const auto& [slot, session] : std::map(sessions_)) Step(SessionClosed{session});
  sessions_.clear();
  const auto actions = Advance(absl::Minutes(60));
  EXPECT_THAT(Only<KillWorker>(actions), IsEmpty());
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  for (int slot : {0, 1, 2}) {
    EXPECT_THAT(Sent(Hello(slot, 1)), ElementsAre(absl::StrCat(slot, ":assign ", slot)));
    Loaded(slot);
  }
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  EXPECT_THAT(claims_, ElementsAre(1));
}

TEST_F(GroupTest, WhatAReconnectingWorkerMissedIsRepeated) {
  Make(2);
  LoadAll();
  Step(SessionClosed{sessions_[1]});
  EXPECT_THAT(Sent(Hello(1)), ElementsAre("1:assign 1", "1:prepare 1"));
  Prepared(1, 1);
  Step(SessionClosed{sessions_[1]});
  sessions_.erase(1);
  EXPECT_THAT(Sent(Prepared(0, 1, "secret")), ElementsAre("0:join 1"));
  EXPECT_THAT(Sent(Hello(1)), ElementsAre("1:assign 1", "1:join 1"));
  Joined(1, 1);
  Step(SessionClosed{sessions_[1]});
  sessions_.erase(1);
  EXPECT_THAT(Sent(Joined(0, 1)), ElementsAre("0:activate 1"));
  EXPECT_THAT(Sent(Hello(1)), ElementsAre("1:assign 1", "1:activate 1"));
}

TEST_F(GroupTest, AWorkerThatComesBackWithAnEndedEpochIsToldSo) {
  MakeActive(3);
  Step(SessionClosed{sessions_[2]});
  sessions_.erase(2);
  Exit(1);
  EXPECT_THAT(Sent(Hello(2, 1)), ElementsAre("2:assign 2", "2:abort 1"));
}

TEST_F(GroupTest, AWorkerWithoutASessionIsReplacedOnceItIsNeeded) {
  MakeActive(2);
  Step(SessionClosed{sessions_[1]});
  sessions_.erase(1);
  Exit(0);
  Hello(0);
  Loaded(0);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(59))), IsEmpty());
  const auto kills = Only<KillWorker>(Advance(absl::Seconds(2)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 1);
}

TEST_F(GroupTest, AHungWorkerIsKilledAndReplaced) {
  MakeActive(3);
  silent_[2] = true;
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(9))), IsEmpty());
  const auto actions = Advance(absl::Seconds(2));
  ASSERT_THAT(Only<KillWorker>(actions), SizeIs(1));
  EXPECT_EQ(Only<KillWorker>(actions)[0].worker_id, ids_[2]);
  EXPECT_EQ(group_->phase(), v1::GroupState::RECOVERING);
  Exit(2);
  silent_.clear();
  Hello(2);
  Loaded(2);
  Form();
}

TEST_F(GroupTest, AProcessThatNeverSaysHelloIsReplaced) {
  Make(2);
  Step(Tick{});
  Hello(0);
  Loaded(0);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(59))), IsEmpty());
  const auto kills = Only<KillWorker>(Advance(absl::Seconds(2)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_THAT(kills[0].reason, HasSubstr("did not connect"));
}

TEST_F(GroupTest, LoadingMayTakeLongButNotWithoutProgress) {
  Make(1);
  Step(Tick{});
  Hello(0);
  for (int minute = 0; minute < 60; ++minute) {
    v1::WorkerMessage message;
    message.mutable_load_progress()->set_bytes_done(static_cast<uint64_t>(minute));
    message.mutable_load_progress()->set_bytes_total(100);
    Step(SessionMessage{sessions_[0], message});
    EXPECT_THAT(Only<KillWorker>(Advance(absl::Minutes(1))), IsEmpty());
  }
  EXPECT_EQ(group_->State().load_bytes_done(), 59u);
  EXPECT_THAT(Only<KillWorker>(Advance(absl::Minutes(10))), SizeIs(1));
}

TEST_F(GroupTest, ALiveSuspectIsKilledTheSecondTimeWithinAMinute) {
  MakeActive(3);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 2)), IsEmpty());
  EXPECT_THAT(claims_, ElementsAre(1, 2));
  Form();
  const auto actions = EpochFailed(1, 2, 2);
  ASSERT_THAT(Only<KillWorker>(actions), SizeIs(1));
  EXPECT_EQ(Only<KillWorker>(actions)[0].slot, 2);
}

TEST_F(GroupTest, ASuspectIsForgivenAfterAMinute) {
  MakeActive(3);
  EpochFailed(0, 1, 2);
  Form();
  Advance(absl::Seconds(61));
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 2, 2)), IsEmpty());
}

TEST_F(GroupTest, ManyReportsOfOneFailureBlameOneRankOnce) {
  MakeActive(4);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 3)), IsEmpty());
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 1, 3)), IsEmpty());
  EXPECT_THAT(Only<KillWorker>(EpochFailed(2, 1, 0)), IsEmpty());
  Form();
  // Rank 0 was named too late to count.
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 2, 0)), IsEmpty());
}

TEST_F(GroupTest, ASilentSuspectIsKilledAtOnceAlsoByALateReport) {
  MakeActive(3);
  silent_[2] = true;
  Advance(absl::Seconds(5));
  EXPECT_THAT(Only<KillWorker>(EpochFailed(1, 1, 0)), IsEmpty());
  const auto kills = Only<KillWorker>(EpochFailed(0, 1, 2));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 2);
}

TEST_F(GroupTest, ReportsOfOldEpochsAndImpossibleSuspectsDoNothing) {
  MakeActive(2);
  EXPECT_THAT(Sent(EpochFailed(0, 0, 1)), IsEmpty());
  EXPECT_THAT(Sent(EpochFailed(0, 7, 1)), IsEmpty());
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  EXPECT_THAT(Only<KillWorker>(EpochFailed(0, 1, 99)), IsEmpty());
  EXPECT_EQ(claims_.back(), 2u);
}

TEST_F(GroupTest, AMissingAnswerEndsTheStage) {
  Make(3);
  LoadAll();
  Prepared(0, 1, "secret");
  Prepared(2, 1);
  EXPECT_THAT(Sent(Advance(absl::Seconds(10))), IsEmpty());
  const auto actions = Advance(absl::Milliseconds(200));
  EXPECT_THAT(Sent(actions), ElementsAre("0:abort 1", "1:abort 1", "2:abort 1", "0:prepare 2",
                                         "1:prepare 2", "2:prepare 2"));
  Prepared(0, 2, "secret");
  Prepared(1, 2);
  Prepared(2, 2);
  Joined(0, 2);
  // The same worker again: it is stuck.
  Joined(2, 2);
  const auto kills = Only<KillWorker>(Advance(absl::Seconds(11)));
  ASSERT_THAT(kills, SizeIs(1));
  EXPECT_EQ(kills[0].slot, 1);
}

TEST_F(GroupTest, AMajorityThatCannotJoinIsNotKilled) {
  Make(4);
  LoadAll();
  for (int round = 0; round < 3; ++round) {
    const uint64_t epoch = claims_.back();
    for (int slot = 0; slot < 4; ++slot) Prepared(slot, epoch, "secret");
    Joined(0, epoch);
    EXPECT_THAT(Only<KillWorker>(Advance(absl::Seconds(15))), IsEmpty());
  }
}

TEST_F(GroupTest, EpochsThatNeverFormEndTheGroupWithTheReason) {
  Make(2);
  LoadAll();
  std::vector<GiveUp> give_up;
  int num_rounds = 0;
  while (give_up.empty()) {
    ASSERT_LT(++num_rounds, 20);
    give_up = Only<GiveUp>(EpochFailed(0, claims_.back(), -1));
    Advance(absl::Seconds(6));
  }
  EXPECT_EQ(num_rounds, 10);
  EXPECT_THAT(give_up[0].reason, HasSubstr("no rows came"));
}

TEST_F(GroupTest, RepeatedEpochFailuresBackOff) {
  MakeActive(2);
  EpochFailed(0, 1, -1);
  ASSERT_EQ(claims_.back(), 2u) << "the first new epoch starts at once";
  Form();
  EpochFailed(0, 2, -1);
  EXPECT_EQ(claims_.back(), 2u);
  Advance(absl::Milliseconds(300));
  EXPECT_EQ(claims_.back(), 3u);
  Form();
  Advance(absl::Seconds(11));
  EpochFailed(0, 3, -1);
  EXPECT_EQ(claims_.back(), 4u) << "an epoch that was stable ends the series";
}

TEST_F(GroupTest, HellosThatAreRefused) {
  MakeActive(2);
  const struct {
    const char* name;
    std::function<void(v1::Hello*)> change;
    const char* reason;
  } kCases[] = {
      {"an unknown worker", [](v1::Hello* h) { h->set_worker_id("stranger"); }, "no process"},
      {"an empty worker id", [](v1::Hello* h) { h->set_worker_id(""); }, "no process"},
      {"a second process with the same id", [](v1::Hello* h) { h->set_nonce(77); },
       "another process"},
      {"the wrong slot", [](v1::Hello* h) { h->set_slot_hint(0); }, "slot 1, not 0"},
      {"other numerics", [](v1::Hello* h) { h->set_numerics_id("cpu-2"); }, "mixed group"},
      {"no numerics", [](v1::Hello* h) { h->set_numerics_id(""); }, "numerics id is empty"},
  };
  for (const auto& c : kCases) {
    v1::WorkerMessage message = HelloOf(1, 1);
    c.change(message.mutable_hello());
    const uint64_t session = ++last_session_;
    const auto actions = Step(SessionMessage{session, message});
    const auto sent = Only<SendMessage>(actions);
    ASSERT_THAT(sent, SizeIs(1)) << c.name;
    EXPECT_EQ(sent[0].session, session) << c.name;
    EXPECT_THAT(sent[0].message.dismiss().reason(), HasSubstr(c.reason)) << c.name;
    EXPECT_THAT(Only<CloseSession>(actions), SizeIs(1)) << c.name;
    // What it says afterwards is not heard.
    EXPECT_THAT(Step(SessionMessage{session, v1::WorkerMessage()}), IsEmpty()) << c.name;
    EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE) << c.name;
  }
}

TEST_F(GroupTest, ARefusedWorkersFailureSaysWhy) {
  GroupOptions options;
  options.max_slot_failures = 1;
  Make(2, options);
  Step(Tick{});
  Hello(0);
  v1::WorkerMessage message = HelloOf(1);
  message.mutable_hello()->set_numerics_id("cpu-2");
  Step(SessionMessage{++last_session_, message});
  const auto give_up = Only<GiveUp>(Exit(1, "exited with status 1"));
  ASSERT_THAT(give_up, SizeIs(1));
  EXPECT_THAT(give_up[0].reason, HasSubstr("its numerics id is cpu-2, the group's is cpu-1"));
}

TEST_F(GroupTest, AProcessThatBeganAgainUnderItsNameTakesThePlaceOfTheOldOne) {
  MakeActive(2);
  Step(SessionClosed{sessions_[1]});
  v1::WorkerMessage message = HelloOf(1);
  message.mutable_hello()->set_nonce(4242);
  sessions_[1] = ++last_session_;
  const auto actions = Step(SessionMessage{sessions_[1], message});
  EXPECT_THAT(Sent(actions), ElementsAre("0:abort 1", "1:assign 1"));
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 2", "1:prepare 2"));
}

TEST_F(GroupTest, MessagesOfAReplacedSessionAreNotHeard) {
  Make(2);
  LoadAll();
  const uint64_t old_session = sessions_[1];
  const auto actions = Hello(1);
  ASSERT_THAT(Only<CloseSession>(actions), SizeIs(1));
  EXPECT_EQ(Only<CloseSession>(actions)[0].session, old_session);
  v1::WorkerMessage message;
  message.mutable_prepared()->set_epoch(1);
  EXPECT_THAT(Step(SessionMessage{old_session, message}), IsEmpty());
  Prepared(0, 1, "secret");
  EXPECT_EQ(group_->phase(), v1::GroupState::CONNECTING);
  EXPECT_THAT(Step(SessionClosed{old_session}), IsEmpty());
  EXPECT_THAT(Sent(Prepared(1, 1)), ElementsAre("0:join 1", "1:join 1"));
}

TEST_F(GroupTest, ASecondHelloOnASessionEndsTheSession) {
  MakeActive(2);
  const auto actions = Step(SessionMessage{sessions_[1], HelloOf(1, 1)});
  EXPECT_THAT(Only<CloseSession>(actions), SizeIs(1));
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
}

TEST_F(GroupTest, NothingIsPreparedBeforeTheClaimIsDurable) {
  Make(1);
  claim_status_ = absl::UnavailableError("disk full");
  LoadAll();
  EXPECT_THAT(claims_, ElementsAre(1));
  EXPECT_EQ(group_->State().epoch(), 0u);
  EXPECT_THAT(Sent(Advance(absl::Milliseconds(100))), IsEmpty());
  EXPECT_THAT(claims_, ElementsAre(1, 2)) << "a number whose claim failed is not used again";
  claim_status_ = absl::OkStatus();
  EXPECT_THAT(Sent(Advance(absl::Seconds(1))), ElementsAre("0:prepare 3"));
}

TEST_F(GroupTest, AWorkerThatDiesDuringTheClaimIsNotPrepared) {
  Make(1);
  for (const Action& action : group_->Step(Tick{}, now_)) {
    ASSERT_TRUE(std::holds_alternative<StartWorker>(action));
  }
  ids_[0] = "a";
  group_->Step(WorkerStarted{0, "a"}, now_);
  sessions_[0] = 1;
  group_->Step(SessionMessage{1, HelloOf(0)}, now_);
  v1::WorkerMessage loaded;
  loaded.mutable_loaded();
  ASSERT_THAT(Only<ClaimEpoch>(group_->Step(SessionMessage{1, loaded}, now_)), SizeIs(1));
  group_->Step(WorkerExited{0, "a", "exited with status 1", ""}, now_);
  EXPECT_THAT(group_->Step(EpochClaimed{1, absl::OkStatus()}, now_), IsEmpty());
}

TEST_F(GroupTest, EpochsGoOnFromTheLastOneClaimed) {
  GroupOptions options;
  options.term = 7;
  options.last_epoch = 41;
  Make(1, options);
  LoadAll();
  EXPECT_THAT(claims_, ElementsAre(42));
  EXPECT_EQ(group_->State().term(), 7u);
}

TEST_F(GroupTest, AControllerThatTakesOverKeepsTheRunningEpoch) {
  GroupOptions options;
  options.term = 2;
  options.last_epoch = 5;
  Make(3, options);
  for (int slot = 0; slot < 3; ++slot) {
    ids_[slot] = absl::StrCat("old", slot);
    Step(WorkerStarted{slot, ids_[slot]});
  }
  EXPECT_THAT(Only<StartWorker>(Step(Tick{})), IsEmpty());
  for (int slot = 0; slot < 3; ++slot) {
    EXPECT_THAT(Sent(Hello(slot, 5)), ElementsAre(absl::StrCat(slot, ":assign ", slot)));
    EXPECT_THAT(Sent(Loaded(slot)), IsEmpty());
  }
  EXPECT_EQ(group_->phase(), v1::GroupState::ACTIVE);
  EXPECT_EQ(group_->State().epoch(), 5u);
  EXPECT_EQ(group_->State().leader_address(), "unix:engine-0");
  EXPECT_THAT(claims_, IsEmpty());
}

TEST_F(GroupTest, AControllerThatTakesOverAHalfRunningGroupFormsANewEpoch) {
  GroupOptions options;
  options.term = 2;
  options.last_epoch = 5;
  Make(2, options);
  for (int slot = 0; slot < 2; ++slot) {
    ids_[slot] = absl::StrCat("old", slot);
    Step(WorkerStarted{slot, ids_[slot]});
  }
  Hello(0, 5);
  Hello(1, 0);
  Loaded(0);
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 6", "1:prepare 6"));
}

TEST_F(GroupTest, AnEpochThatFailsDuringATakeoverIsNotKept) {
  GroupOptions options;
  options.term = 2;
  options.last_epoch = 5;
  Make(2, options);
  for (int slot = 0; slot < 2; ++slot) {
    ids_[slot] = absl::StrCat("old", slot);
    Step(WorkerStarted{slot, ids_[slot]});
  }
  Hello(0, 5);
  Loaded(0);
  EpochFailed(0, 5, -1);
  Hello(1, 5);
  EXPECT_THAT(Sent(Loaded(1)), ElementsAre("0:prepare 6", "1:prepare 6"));
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
