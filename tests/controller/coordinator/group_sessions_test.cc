// Tests controller/coordinator/group.h: who may be a member, and sessions that come and go.
#include <functional>
#include <map>

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
using ::testing::StartsWith;

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

TEST_F(GroupTest, AWorkerThatLoadedAnotherModelIsRefusedAndReplaced) {
  Make(3);
  Step(Tick{});
  for (int slot : {0, 1, 2}) Hello(slot);
  EXPECT_EQ(group_->State().model_digest(), "") << "nobody has loaded it yet";
  Loaded(0, "one");
  EXPECT_EQ(group_->State().model_digest(), "one");
  const auto refused = Loaded(1, "two");
  EXPECT_THAT(Sent(refused),
              ElementsAre(StartsWith("1:dismiss it loaded a model with digest two")));
  EXPECT_EQ(group_->State().model_digest(), "one");
  EXPECT_THAT(Sent(Loaded(2, "one")), IsEmpty()) << "two of three have loaded";
  const auto restart = Exit(1, "exited with status 0");
  EXPECT_THAT(Only<StartWorker>(restart), SizeIs(1));
  EXPECT_THAT(Only<LogLine>(restart)[0].text,
              HasSubstr("after it was refused: it loaded a model with digest two"));
  Hello(1);
  EXPECT_THAT(Sent(Loaded(1, "one")), ElementsAre("0:prepare 1", "1:prepare 1", "2:prepare 1"));
  Form();
  EXPECT_EQ(group_->State().model_digest(), "one");
}

TEST_F(GroupTest, AGroupWhoseWorkersHaveAllGoneMayLoadAnotherModel) {
  Make(2);
  Step(Tick{});
  Hello(0);
  Loaded(0, "one");
  Exit(0);
  EXPECT_EQ(group_->State().model_digest(), "");
  Hello(0);
  Hello(1);
  Loaded(1, "two");
  EXPECT_THAT(Sent(Loaded(0, "two")), ElementsAre("0:prepare 1", "1:prepare 1"));
}

TEST_F(GroupTest, AWorkerOfAnEarlierVersionThatNamesNoModelIsTaken) {
  Make(2);
  Step(Tick{});
  Hello(0);
  Hello(1);
  Loaded(0, "");
  EXPECT_THAT(Sent(Loaded(1, "one")), ElementsAre("0:prepare 1", "1:prepare 1"));
  EXPECT_EQ(group_->State().model_digest(), "one");
}

}  // namespace
}  // namespace moe::coordinator
