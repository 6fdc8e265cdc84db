// Tests gateway/journal/journal.h without threads or network: several groups of a deployment.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/journal/journal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/journal/journal_fixture.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::TokenEvent;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::JournalGroupsTest;
using ::testing::SizeIs;

TEST_F(JournalGroupsTest, NewSequencesGoWhereTheFewestTokensAreOutstanding) {
  Connect("d/m/0");
  Connect("d/m/1");
  auto small = Start(1, 10);
  auto large = Start(1, 1000);  // the other group: it has nothing
  int num_first = 0;
  int num_second = 0;
  std::vector<std::unique_ptr<Generation>> more;
  for (int i = 0; i < 20; ++i) {
    more.push_back(Start(1, 40));
  }
  num_first = static_cast<int>(Sent("d/m/0").size());
  num_second = static_cast<int>(Sent("d/m/1").size());
  EXPECT_EQ(std::min(num_first, num_second), 1) << "the large one is alone";
  EXPECT_EQ(std::max(num_first, num_second), 21);
}

TEST_F(JournalGroupsTest, OutstandingTokensShrinkAsTheyComeAndEndWithTheSequence) {
  Connect("d/m/0");
  auto generation = Start(1, 10);
  const auto outstanding = [this] { return journal_->view().groups.at(0).outstanding_tokens; };
  EXPECT_EQ(outstanding(), 11) << "a prompt of one token, and the answer";
  const uint64_t number = Submitted("d/m/0").request();
  Token("d/m/0", number, 0, 10);
  EXPECT_EQ(outstanding(), 9) << "the prompt is computed";
  Token("d/m/0", number, 1, 11);
  EXPECT_EQ(outstanding(), 8);
  journal_->OnDisconnect("d/m/0");
  EXPECT_EQ(outstanding(), 0);
  Connect("d/m/0");
  EXPECT_EQ(outstanding(), 11) << "prompt and two tokens are computed again, and eight are missing";
  generation = nullptr;
  EXPECT_EQ(outstanding(), 0);
}

TEST_F(JournalGroupsTest, AGroupThatIsGoneLeavesItsSequencesToAnother) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  auto fresh = Start(7);
  Sent("d/m/0");
  Connect("d/m/1");
  Remove("d/m/0");
  const auto sent = Sent("d/m/1");
  ASSERT_THAT(sent, SizeIs(2)) << "at once: it does not come back";
  EXPECT_THAT(Generated(sent[0].submit()), ElementsAre(10));
  EXPECT_THAT(sent[1].submit().prompt_tokens(), ElementsAre(7));
  Token("d/m/1", sent[0].submit().request(), 0, 99);  // a position that is known
  Token("d/m/1", sent[0].submit().request(), 1, 11);
  EXPECT_THAT(Take(*begun), ElementsAre(11));
  EXPECT_EQ(journal_->view().num_moved, 1U);
  EXPECT_EQ(journal_->view().num_failovers, 0U);
}

TEST_F(JournalGroupsTest, AFailedGroupLeavesItsSequencesToAnotherAndIsLeftAlone) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  Connect("d/m/1");
  State("d/m/0").set_phase(GroupState::FAILED);
  Publish();
  EXPECT_THAT(Generated(Submitted("d/m/1")), ElementsAre(10));
  EXPECT_TRUE(Sent("d/m/0")[0].has_cancel()) << "its leader may still be there";
  auto fresh = Start();
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  EXPECT_THAT(Sent("d/m/1"), SizeIs(1));
  EXPECT_TRUE(journal_->view().serving);
}

TEST_F(JournalGroupsTest, WhenAllGroupsHaveFailedEverythingEnds) {
  Connect("d/m/0");
  Connect("d/m/1");
  auto generation = Start();
  State("d/m/0").set_phase(GroupState::FAILED);
  State("d/m/1").set_phase(GroupState::FAILED);
  Publish();
  EXPECT_TRUE(absl::IsUnavailable(generation->Next(absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsUnavailable(journal_->Start({}).status()));
}

TEST_F(JournalGroupsTest, ALeaderThatIsBackSoonKeepsItsSequences) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  Connect("d/m/1");
  journal_->OnDisconnect("d/m/0");
  Pass(absl::Seconds(4), {"d/m/1"});
  EXPECT_THAT(Sent("d/m/1"), IsEmpty());
  Connect("d/m/0");
  EXPECT_THAT(Generated(Submitted("d/m/0")), ElementsAre(10));
  EXPECT_EQ(journal_->view().num_moved, 0U);
}

TEST_F(JournalGroupsTest, AfterTheGracePeriodAnotherGroupTakesOver) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  Connect("d/m/1");
  journal_->OnDisconnect("d/m/0");
  Pass(absl::Seconds(6), {"d/m/1"});
  EXPECT_THAT(Generated(Submitted("d/m/1")), ElementsAre(10));
  Connect("d/m/0");
  EXPECT_THAT(Sent("d/m/0"), IsEmpty()) << "it is not asked a second time";
}

TEST_F(JournalGroupsTest, WithoutATokenNothingIsLostByMovingAtOnce) {
  Connect("d/m/0");
  auto fresh = Start(7);
  Sent("d/m/0");
  Connect("d/m/1");
  journal_->OnDisconnect("d/m/0");
  EXPECT_THAT(Submitted("d/m/1").prompt_tokens(), ElementsAre(7));
}

TEST_F(JournalGroupsTest, ALeaderThatSpeaksButDoesNotComputeLosesItsSequencesToo) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  Connect("d/m/1");
  State("d/m/0").set_phase(GroupState::RECOVERING);
  Publish();
  Pass(absl::Seconds(4), {"d/m/0", "d/m/1"});
  EXPECT_THAT(Sent("d/m/1"), IsEmpty());
  Pass(absl::Seconds(2), {"d/m/0", "d/m/1"});
  EXPECT_THAT(Generated(Submitted("d/m/1")), ElementsAre(10));
  const auto sent = Sent("d/m/0");
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_TRUE(sent[0].has_cancel());
}

TEST_F(JournalGroupsTest, ADrainingGroupFinishesWhatItHasAndGetsNothingNew) {
  Connect("d/m/0");
  auto old = Begin("d/m/0");
  Connect("d/m/1");
  State("d/m/0").set_draining(true);
  Publish();
  auto fresh = Start(7);
  EXPECT_THAT(Submitted("d/m/1").prompt_tokens(), ElementsAre(7));
  Token("d/m/0", 1, 1, 11);
  EXPECT_THAT(Take(*old), ElementsAre(11)) << "it goes on where it is";
  Pass(absl::Seconds(60), {"d/m/0", "d/m/1"});
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  Remove("d/m/0");
  EXPECT_THAT(Generated(Submitted("d/m/1")), ElementsAre(10, 11));
}

TEST_F(JournalGroupsTest, ARollOutToAnotherModelServesOldAndNewSideBySide) {
  Connect("d/m/0", "old");
  auto old = Begin("d/m/0");
  Connect("d/m/1", "new");
  State("d/m/0").set_draining(true);
  Publish();
  auto fresh = Start(7);
  const uint64_t number = Submitted("d/m/1").request();
  Token("d/m/1", number, 0, 20);
  Token("d/m/0", 1, 1, 11);
  EXPECT_THAT(Take(*old), ElementsAre(11));
  EXPECT_THAT(Take(*fresh), ElementsAre(20));
}

TEST_F(JournalGroupsTest, WhatWasBegunNeverGoesOnWithAnotherModelOrNumerics) {
  for (const auto& [digest, numerics] :
       std::vector<std::pair<std::string, std::string>>{{"other", "cpu"}, {"digest", "gpu"}}) {
    SCOPED_TRACE(digest + " " + numerics);
    states_.clear();
    Connect("d/m/0");
    auto begun = Begin("d/m/0");
    Connect("d/m/1", digest, numerics);
    Remove("d/m/0");
    Pass(absl::Seconds(119), {"d/m/1"});
    EXPECT_THAT(Sent("d/m/1"), IsEmpty());
    EXPECT_THAT(Take(*begun), IsEmpty()) << "it waits for its own kind";
    Pass(absl::Seconds(2), {"d/m/1"});
    EXPECT_TRUE(absl::IsUnavailable(begun->Next(absl::ZeroDuration()).status()));
    auto fresh = Start();
    EXPECT_THAT(Sent("d/m/1"), SizeIs(1));
    fresh = nullptr;
    Sent("d/m/1");
  }
}

TEST_F(JournalGroupsTest, AGroupOfItsKindThatComesInTimeIsUsed) {
  Connect("d/m/0");
  auto begun = Begin("d/m/0");
  Connect("d/m/1", "other");
  Remove("d/m/0");
  Pass(absl::Seconds(60), {"d/m/1"});
  Connect("d/m/2");
  EXPECT_THAT(Generated(Submitted("d/m/2")), ElementsAre(10));
}

TEST_F(JournalGroupsTest, AGroupThatComesBackAsAnotherModelIsANewOne) {
  Connect("d/m/0", "old", "cpu", 9);
  auto begun = Start();
  EngineMessage message;
  message.mutable_events()->set_epoch(9);
  TokenEvent& event = *message.mutable_events()->add_events();
  event.set_request(Submitted("d/m/0").request());
  event.set_token(10);
  journal_->OnMessage("d/m/0", message);
  journal_->OnDisconnect("d/m/0");
  Connect("d/m/0", "new", "cpu", 1);
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  auto fresh = Start(7);
  EXPECT_THAT(Submitted("d/m/0").prompt_tokens(), ElementsAre(7));
  Connect("d/m/1", "old");
  EXPECT_THAT(Generated(Submitted("d/m/1")), ElementsAre(10));
}

TEST_F(JournalGroupsTest, ScaledToZeroRequestsAreHeldUntilAGroupComes) {
  Connect("d/m/0");
  Remove("d/m/0");
  EXPECT_FALSE(journal_->view().serving);
  EXPECT_THAT(journal_->view().reason, HasSubstr("scaled to zero"));
  EXPECT_EQ(journal_->welcome().vocab_size(), 100U) << "so that requests can still be read";
  auto early = Start(7);
  Pass(absl::Seconds(100), {});
  auto late = Start(8);
  Pass(absl::Seconds(30), {});
  EXPECT_TRUE(absl::IsUnavailable(early->Next(absl::ZeroDuration()).status()));
  Connect("d/m/0", "new");
  EXPECT_THAT(Submitted("d/m/0").prompt_tokens(), ElementsAre(8)) << "any model will do";
}

TEST_F(JournalGroupsTest, WhileOnlyDrainingGroupsAreLeftNewRequestsAreHeld) {
  Connect("d/m/0");
  State("d/m/0").set_draining(true);
  Publish();
  auto fresh = Start(7);
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  EXPECT_FALSE(journal_->view().serving);
  Connect("d/m/1", "new");
  EXPECT_THAT(Submitted("d/m/1").prompt_tokens(), ElementsAre(7));
}

TEST_F(JournalGroupsTest, AFullQueueSendsANewRequestOnAndOnlyAllFullRefuseIt) {
  Connect("d/m/0");
  auto refused = Start(7);
  const uint64_t number = Submitted("d/m/0").request();
  Connect("d/m/1");
  Reject("d/m/0", number);
  const auto again = Submitted("d/m/1");
  EXPECT_THAT(again.prompt_tokens(), ElementsAre(7));
  Reject("d/m/1", again.request());
  EXPECT_TRUE(absl::IsResourceExhausted(refused->Next(absl::ZeroDuration()).status()));
}

TEST_F(JournalGroupsTest, SequencesOfOtherGatewaysCount) {
  Connect("d/m/0");
  Connect("d/m/1");
  Speak("d/m/0", 50);
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 10; ++i) {
    generations.push_back(Start());
  }
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  EXPECT_THAT(Sent("d/m/1"), SizeIs(10));
}

TEST_F(JournalGroupsTest, WhatAnEndedConnectionStillSaysIsIgnored) {
  Connect("d/m/0");
  auto generation = Start();
  const uint64_t number = Submitted("d/m/0").request();
  Remove("d/m/0");
  Token("d/m/0", number, 0, 10);
  State("d/m/0");
  Publish();
  Token("d/m/0", number, 0, 10);
  journal_->OnDisconnect("d/m/0");
  EXPECT_THAT(Take(*generation), IsEmpty());
  EXPECT_FALSE(journal_->OnWelcome("d/m/9", {}).ok()) << "there is no such group";
}

}  // namespace
}  // namespace moe::gateway
