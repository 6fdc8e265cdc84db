// Tests gateway/journal/journal.h without threads or network: groups of another model beside those
// of this gateway's, as a roll-out to another model has them.
#include <memory>
#include <string>
#include <vector>

#include "gateway/journal/journal.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/journal/journal_fixture.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::JournalGroupsTest;
using ::testing::SizeIs;

class JournalModelsTest : public JournalGroupsTest {
 protected:
  JournalModelsTest() : JournalGroupsTest("digest") {}

  // The coordinator lists it with the digest of what its workers have loaded; empty: nothing yet.
  void List(const std::string& name, const std::string& digest) {
    State(name).set_model_digest(digest);
    Publish();
  }
  absl::Status Greet(const std::string& name, const std::string& digest,
                     const std::string& numerics = "cpu") {
    return journal_->OnWelcome(name, MakeWelcome(1, numerics, digest));
  }
};

TEST_F(JournalModelsTest, OnlyGroupsOfItsModelAreUsed) {
  const struct {
    const char* sentence;
    const char* listed;   // by the coordinator
    const char* welcome;  // of the leader
    bool used;
  } kCases[] = {
      {"its own", "digest", "digest", true},
      {"its own, of a coordinator that does not say", "", "digest", true},
      {"another one", "other", "other", false},
      {"another one, of a coordinator that does not say", "", "other", false},
      {"a leader that has loaded something else than its group", "digest", "other", false},
      {"a leader that does not say", "", "", false},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    states_.clear();
    Publish();
    log_.clear();
    List("d/m/1", c.listed);
    EXPECT_EQ(Greet("d/m/1", c.welcome).ok(), c.used);
    const EngineView view = journal_->view();
    EXPECT_EQ(view.serving, c.used) << view.reason;
    EXPECT_EQ(view.other_model_serves, !c.used);
    EXPECT_EQ(view.groups.at(0).other_model, !c.used);
    EXPECT_THAT(log_, SizeIs(c.used ? 0 : 1));
    if (!c.used) {
      EXPECT_THAT(view.reason, HasSubstr("another model"));
    }
  }
}

TEST_F(JournalModelsTest, WhatItIgnoresIsSaidOnceForEachGroup) {
  for (int i = 0; i < 3; ++i) {
    List("d/m/0", "other");
    List("d/m/1", "other");
    EXPECT_FALSE(Greet("d/m/0", "other").ok());
  }
  ASSERT_THAT(log_, SizeIs(2));
  EXPECT_THAT(log_[0], HasSubstr("d/m/0 serves another model (digest other) than this gateway"));
  EXPECT_THAT(log_[1], HasSubstr("d/m/1"));
}

TEST_F(JournalModelsTest, OldAndNewSideBySideEachGatewayUsesItsOwn) {
  List("d/m/0", "digest");
  List("d/m/1", "other");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  EXPECT_FALSE(Greet("d/m/1", "other").ok());
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 10; ++i) {
    generations.push_back(Start());
  }
  EXPECT_THAT(Sent("d/m/0"), SizeIs(10));
  EXPECT_THAT(Sent("d/m/1"), IsEmpty());
  EXPECT_TRUE(journal_->view().serving);
  EXPECT_EQ(journal_->view().group.group(), "d/m/0");
}

TEST_F(JournalModelsTest, AGroupThatBecomesAnotherModelLeavesItsSequencesToItsOwnKind) {
  List("d/m/0", "digest");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  auto begun = Begin("d/m/0");
  auto fresh = Start(7);
  Sent("d/m/0");
  List("d/m/0", "other");
  EXPECT_FALSE(journal_->connected("d/m/0"));
  EXPECT_THAT(Take(*begun), IsEmpty()) << "it waits";
  List("d/m/1", "digest");
  ASSERT_TRUE(Greet("d/m/1", "digest").ok());
  const auto sent = Sent("d/m/1");
  ASSERT_THAT(sent, SizeIs(2));
  EXPECT_THAT(Generated(sent[0]), ElementsAre(10));
  EXPECT_THAT(sent[1].submit().prompt_tokens(), ElementsAre(7));
}

TEST_F(JournalModelsTest, WhatWasBegunGoesOnOnlyWithBothItsModelAndItsNumerics) {
  const struct {
    const char* sentence;
    const char* digest;
    const char* numerics;
    bool goes_on;
  } kCases[] = {
      {"the same of both", "digest", "cpu", true},
      {"another model", "other", "cpu", false},
      {"other numerics", "digest", "gpu", false},
      {"another model and other numerics", "other", "gpu", false},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    states_.clear();
    Publish();
    List("d/m/0", "digest");
    ASSERT_TRUE(Greet("d/m/0", "digest").ok());
    auto begun = Begin("d/m/0");
    List("d/m/1", c.digest);
    const bool usable = Greet("d/m/1", c.digest, c.numerics).ok();
    Remove("d/m/0");
    Pass(absl::Seconds(10), {"d/m/1"});
    const auto sent = usable ? Sent("d/m/1") : std::vector<engine::v1::GatewayMessage>();
    ASSERT_THAT(sent, SizeIs(c.goes_on ? 1 : 0));
    if (c.goes_on) {
      EXPECT_THAT(Generated(sent[0]), ElementsAre(10));
    }
  }
}

TEST_F(JournalModelsTest, TheLastGroupOfItsModelTakesNewRequestsWhileItDrains) {
  List("d/m/0", "digest");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  State("d/m/0").set_draining(true);
  List("d/m/1", "other");
  auto last = Start(7);
  EXPECT_THAT(Submitted("d/m/0").prompt_tokens(), ElementsAre(7)) << "nobody else could answer it";
  EXPECT_FALSE(journal_->view().serving) << "load balancers are to ask other gateways";
  List("d/m/3", "");  // starts
  auto another = Start(9);
  EXPECT_THAT(Submitted("d/m/0").prompt_tokens(), ElementsAre(9));
  List("d/m/2", "digest");
  ASSERT_TRUE(Greet("d/m/2", "digest").ok());
  auto later = Start(8);
  EXPECT_THAT(Sent("d/m/0"), IsEmpty());
  EXPECT_THAT(Submitted("d/m/2").prompt_tokens(), ElementsAre(8));
}

TEST_F(JournalModelsTest, WhenAllGroupsOfItsModelHaveFailedOthersDoNotKeepItsRequestsWaiting) {
  List("d/m/0", "digest");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  List("d/m/1", "other");
  auto generation = Start();
  State("d/m/0").set_phase(GroupState::FAILED);
  Publish();
  EXPECT_TRUE(absl::IsUnavailable(generation->Next(absl::ZeroDuration()).status()));
}

TEST_F(JournalModelsTest, GroupsOfAnotherModelAloneAreNoFailure) {
  List("d/m/0", "digest");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  Remove("d/m/0");
  List("d/m/1", "other");
  State("d/m/1").set_phase(GroupState::FAILED);
  Publish();
  auto held = Start(7);
  EXPECT_THAT(Take(*held), IsEmpty());
  List("d/m/2", "digest");
  ASSERT_TRUE(Greet("d/m/2", "digest").ok());
  EXPECT_THAT(Submitted("d/m/2").prompt_tokens(), ElementsAre(7));
}

TEST_F(JournalModelsTest, AnotherModelServesOnlyWhileItTakesRequests) {
  List("d/m/1", "other");
  EXPECT_TRUE(journal_->view().other_model_serves);
  State("d/m/1").set_draining(true);
  Publish();
  EXPECT_FALSE(journal_->view().other_model_serves) << "it is about to end";
  State("d/m/1").set_draining(false);
  State("d/m/1").set_phase(GroupState::RECOVERING);
  Publish();
  EXPECT_FALSE(journal_->view().other_model_serves);
}

TEST_F(JournalModelsTest, AFullQueueOfTheOnlyGroupOfItsModelRefuses) {
  List("d/m/0", "digest");
  ASSERT_TRUE(Greet("d/m/0", "digest").ok());
  List("d/m/1", "other");
  List("d/m/2", "other");
  auto refused = Start();
  Reject("d/m/0", Submitted("d/m/0").request());
  EXPECT_TRUE(absl::IsResourceExhausted(refused->Next(absl::ZeroDuration()).status()));
}

}  // namespace
}  // namespace moe::gateway
