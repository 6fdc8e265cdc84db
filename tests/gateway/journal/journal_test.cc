// Tests gateway/journal/journal.h without threads or network: one group, as in local mode.
#include "gateway/journal/journal.h"

#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/journal/journal_fixture.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;
using engine::v1::Rejected;
using engine::v1::TokenEvent;
using engine::v1::Welcome;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class JournalTest : public testing::JournalFixture {
 protected:
  JournalTest() : JournalFixture(JournalOptions()) { OnGroup({}); }

  absl::Status OnWelcome(const Welcome& welcome) { return journal_->OnWelcome("", welcome); }
  void OnMessage(const EngineMessage& message) { journal_->OnMessage("", message); }
  void OnDisconnect() { journal_->OnDisconnect(""); }
  void OnGroup(const GroupState& group) {
    coordinator::v1::GroupStates groups;
    *groups.add_groups() = group;
    journal_->OnGroups(groups);
  }

  std::unique_ptr<Generation> Start(std::vector<int32_t> prompt = {1, 2}) {
    return StartPrompt(std::move(prompt));
  }
  std::vector<GatewayMessage> Sent() { return SentTo(""); }
  void Token(uint64_t epoch, uint64_t request, uint32_t position, int32_t token,
             TokenEvent::Finish finish = TokenEvent::NONE) {
    TokenOf("", epoch, request, position, token, finish);
  }
  void Reject(uint64_t request, Rejected::Reason reason) { RejectBy("", request, reason); }
};

TEST_F(JournalTest, NothingStartsBeforeAnEngineWasThere) {
  EXPECT_TRUE(absl::IsUnavailable(journal_->Start({}).status()));
  EXPECT_FALSE(journal_->view().serving);
}

TEST_F(JournalTest, TokensComeInOrderAndTheEndEndsIt) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  const auto sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].submit().sampling().seed(), 99U);
  const uint64_t number = sent[0].submit().request();
  Token(1, number, 0, 10);
  Token(1, number, 1, 11);
  EXPECT_THAT(Take(*generation), ElementsAre(10, 11));
  Token(1, number, 2, 12, TokenEvent::STOP);
  EXPECT_THAT(Take(*generation), ElementsAre(12));
  EXPECT_THAT(Take(*generation), IsEmpty());
  EXPECT_EQ(num_signals_, 3);
}

TEST_F(JournalTest, ANewLeaderGetsPromptAndTokensApartAndGoesOnWithoutGapOrDouble) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto first = Start({1});
  auto second = Start({2});
  auto sent = Sent();
  Token(1, sent[0].submit().request(), 0, 10);
  Token(1, sent[0].submit().request(), 1, 11);
  OnDisconnect();
  auto third = Start({3});  // comes while nobody leads, and waits
  ASSERT_TRUE(OnWelcome(MakeWelcome(2)).ok());
  sent = Sent();
  ASSERT_THAT(sent, SizeIs(3));
  EXPECT_THAT(Generated(sent[0]), ElementsAre(10, 11));
  EXPECT_THAT(sent[0].submit().prompt_tokens(), ElementsAre(1));
  EXPECT_THAT(Generated(sent[1]), IsEmpty());
  EXPECT_THAT(sent[2].submit().prompt_tokens(), ElementsAre(3));
  const uint64_t number = sent[0].submit().request();
  Token(2, number, 1, 99);  // a position that is known
  Token(1, number, 2, 98);  // an epoch that is over
  Token(2, number, 2, 12);
  Token(2, number, 2, 97);  // the same again
  EXPECT_THAT(Take(*first), ElementsAre(10, 11, 12));
  EXPECT_EQ(journal_->view().num_dropped_events, 3U);
  EXPECT_EQ(journal_->view().num_failovers, 1U);
}

TEST_F(JournalTest, EventsOfAnEarlierSubmissionDoNotCount) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  const uint64_t old_number = Sent()[0].submit().request();
  OnDisconnect();
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  EXPECT_NE(Sent()[0].submit().request(), old_number);
  Token(1, old_number, 0, 10);
  EXPECT_THAT(Take(*generation), IsEmpty());
}

TEST_F(JournalTest, AGapIsSubmittedAgainFromWhatIsKnown) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  const uint64_t number = Sent()[0].submit().request();
  Token(1, number, 0, 10);
  Token(1, number, 2, 12);
  const auto sent = Sent();
  ASSERT_THAT(sent, SizeIs(2));
  EXPECT_EQ(sent[0].cancel().request(), number);
  EXPECT_THAT(Generated(sent[1]), ElementsAre(10));
  Token(1, sent[1].submit().request(), 1, 11, TokenEvent::LENGTH);
  EXPECT_THAT(Take(*generation), ElementsAre(10, 11));
}

TEST_F(JournalTest, ALeaderThatKeepsSkippingIsGivenUp) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  uint64_t number = Sent()[0].submit().request();
  for (int i = 0; i < 5; ++i) {
    Token(1, number, 7, 1);
    number = Sent().back().submit().request();
  }
  Token(1, number, 7, 1);
  EXPECT_TRUE(absl::IsInternal(generation->Next(absl::ZeroDuration()).status()));
}

TEST_F(JournalTest, ALeaderMayGoOnInANewEpochOnTheSameConnection) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  const uint64_t number = Sent()[0].submit().request();
  Token(1, number, 0, 10);
  Token(2, number, 1, 11);
  Token(1, number, 2, 99);
  EXPECT_THAT(Take(*generation), ElementsAre(10, 11));
}

TEST_F(JournalTest, AnOldLeaderIsRefused) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(5)).ok());
  OnDisconnect();
  EXPECT_FALSE(OnWelcome(MakeWelcome(4)).ok());
  EXPECT_FALSE(journal_->connected(""));
  EXPECT_TRUE(OnWelcome(MakeWelcome(5)).ok());
}

TEST_F(JournalTest, RequestsNeverGoOnWithOtherNumerics) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto old = Start();
  Token(1, Sent()[0].submit().request(), 0, 10);
  EXPECT_THAT(Take(*old), ElementsAre(10));
  OnDisconnect();
  ASSERT_TRUE(OnWelcome(MakeWelcome(2, "gpu")).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Next(absl::ZeroDuration()).status()));
  auto fresh = Start();
  EXPECT_THAT(Sent(), SizeIs(1));
}

TEST_F(JournalTest, ARequestWithoutATokenMayStartAnewWithOtherNumerics) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  Sent();
  OnDisconnect();
  ASSERT_TRUE(OnWelcome(MakeWelcome(2, "gpu")).ok());
  const auto sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  Token(2, sent[0].submit().request(), 0, 10);
  EXPECT_THAT(Take(*generation), ElementsAre(10));
}

TEST_F(JournalTest, RequestsNeverGoOnWithAnotherModel) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto old = Start();
  OnDisconnect();
  EXPECT_FALSE(OnWelcome(MakeWelcome(2, "cpu", "other")).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(old->Next(absl::ZeroDuration()).status()));
  EXPECT_FALSE(journal_->view().serving);
  EXPECT_THAT(journal_->view().reason, ::testing::HasSubstr("another model"));
}

TEST_F(JournalTest, AFullQueueRefusesWhatIsNewAndTriesAgainWhatIsOld) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto fresh = Start();
  Reject(Sent()[0].submit().request(), Rejected::QUEUE_FULL);
  EXPECT_TRUE(absl::IsResourceExhausted(fresh->Next(absl::ZeroDuration()).status()));

  auto old = Start();
  Token(1, Sent()[0].submit().request(), 0, 10);
  OnDisconnect();
  ASSERT_TRUE(OnWelcome(MakeWelcome(2)).ok());
  Reject(Sent()[0].submit().request(), Rejected::QUEUE_FULL);
  journal_->Tick();
  EXPECT_THAT(Take(*old), ElementsAre(10));
  now_ += absl::Seconds(1);
  journal_->Tick();
  const auto sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_THAT(Generated(sent[0]), ElementsAre(10));
}

TEST_F(JournalTest, WhatTheEngineCannotTakeIsTheClientsFault) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  Reject(Sent()[0].submit().request(), Rejected::TOO_LONG);
  EXPECT_TRUE(absl::IsInvalidArgument(generation->Next(absl::ZeroDuration()).status()));
}

TEST_F(JournalTest, TheFailoverDeadlineEndsIt) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  Token(1, Sent()[0].submit().request(), 0, 10);
  OnDisconnect();
  now_ += absl::Seconds(119);
  journal_->Tick();
  EXPECT_THAT(Take(*generation), ElementsAre(10));
  now_ += absl::Seconds(2);
  journal_->Tick();
  EXPECT_TRUE(absl::IsUnavailable(generation->Next(absl::ZeroDuration()).status()));
}

TEST_F(JournalTest, ACrashLoopReachesTheDeadline) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  for (uint64_t i = 0; i < 125; ++i) {
    OnDisconnect();
    now_ += absl::Seconds(1);
    journal_->Tick();
    if (!generation->Next(absl::ZeroDuration()).ok()) {
      EXPECT_GE(i, 118U);
      return;
    }
    ASSERT_TRUE(OnWelcome(MakeWelcome(2 + i)).ok());
  }
  FAIL() << "never ended";
}

TEST_F(JournalTest, ADestroyedGenerationIsCancelled) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  const uint64_t number = Sent()[0].submit().request();
  generation = nullptr;
  const auto sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(sent[0].cancel().request(), number);
  Token(1, number, 0, 10);
  EXPECT_EQ(num_signals_, 0);
  OnDisconnect();
  ASSERT_TRUE(OnWelcome(MakeWelcome(2)).ok());
  auto other = Start({7});
  EXPECT_THAT(Sent(), SizeIs(1)) << "the cancelled one is forgotten";
}

TEST_F(JournalTest, HealthFollowsTheLeadersVoice) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  EXPECT_TRUE(journal_->view().serving);
  now_ += absl::Seconds(4);
  EXPECT_FALSE(journal_->view().serving);
  EngineMessage stats;
  stats.mutable_stats()->set_num_running(3);
  OnMessage(stats);
  EXPECT_TRUE(journal_->view().serving);
  EXPECT_EQ(journal_->view().stats.num_running(), 3U);
  OnDisconnect();
  GroupState group;
  group.set_phase(GroupState::RECOVERING);
  OnGroup(group);
  EXPECT_THAT(journal_->view().reason, ::testing::HasSubstr("recovering"));
}

TEST_F(JournalTest, BetweenTwoEpochsItIsRecoveringThoughTheLeaderSpeaks) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  EXPECT_THAT(Sent(), SizeIs(1));
  GroupState group;
  group.set_phase(GroupState::RECOVERING);
  OnGroup(group);
  EngineMessage stats;
  stats.mutable_stats()->set_num_running(1);
  for (int second = 0; second < 60; ++second) {
    now_ += absl::Seconds(1);
    OnMessage(stats);
    EXPECT_FALSE(journal_->view().serving);
    EXPECT_THAT(journal_->view().reason, ::testing::HasSubstr("recovering"));
  }
  auto later = Start({7});
  EXPECT_THAT(Sent(), SizeIs(1)) << "requests are taken, and wait in the leader";
  group.set_phase(GroupState::ACTIVE);
  OnGroup(group);
  EXPECT_TRUE(journal_->view().serving);
  Token(2, 1, 0, 10, TokenEvent::STOP);
  EXPECT_THAT(Take(*generation), ElementsAre(10)) << "nothing was submitted twice";
}

TEST_F(JournalTest, AFailedGroupAndAStopEndEverything) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  GroupState group;
  group.set_phase(GroupState::FAILED);
  OnGroup(group);
  EXPECT_TRUE(absl::IsUnavailable(generation->Next(absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsUnavailable(journal_->Start({}).status()));
  group.set_phase(GroupState::ACTIVE);
  OnGroup(group);
  auto other = Start();
  journal_->Stop();
  EXPECT_TRUE(absl::IsUnavailable(other->Next(absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsUnavailable(journal_->Start({}).status()));
}

TEST_F(JournalTest, ASequencesErrorReachesItsOwner) {
  ASSERT_TRUE(OnWelcome(MakeWelcome(1)).ok());
  auto generation = Start();
  Token(1, Sent()[0].submit().request(), 0, 0, TokenEvent::ERROR);
  const auto events = generation->Next(absl::ZeroDuration());
  ASSERT_TRUE(events.ok());
  EXPECT_EQ((*events)[0].finish(), TokenEvent::ERROR);
}

}  // namespace
}  // namespace moe::gateway
