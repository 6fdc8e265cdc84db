// Tests gateway/journal/engine_client.h with several groups against coordinators and leaders in
// this process.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/gateway/journal/engine_client_fixture.h"

namespace moe::gateway {
namespace {

using engine::v1::TokenEvent;
using testing::ActiveGroup;
using testing::EngineClientTest;
using testing::FakeCoordinator;
using testing::FakeLeader;
using testing::FakeLeaderOptions;
using testing::kAnswer;

// Two groups of a deployment, each with a leader of its own.
class EngineClientGroupsTest : public EngineClientTest {
 protected:
  static constexpr char kDeployment[] = "ns/m";

  static std::string Group(int index) { return absl::StrCat(kDeployment, "/", index); }

  FakeLeader& Lead(int index, FakeLeaderOptions options) {
    leaders_[index] = std::make_unique<FakeLeader>(options);
    coordinator_->Set(ActiveGroup(Group(index), options.address, options.epoch));
    return *leaders_[index];
  }
  FakeLeader& Lead(int index) { return Lead(index, LeaderOptions(absl::StrCat("g", index), 1)); }

  void ConnectTo(const std::string& coordinator,
                 absl::Duration failover_deadline = absl::Seconds(60)) {
    EngineClientOptions options;
    options.coordinator = coordinator;
    options.deployment = kDeployment;
    options.gateway_id = "test";
    options.journal.failover_deadline = failover_deadline;
    options.journal.group_grace = absl::Milliseconds(200);
    client_ = std::make_unique<EngineClient>(options);
  }
  void ConnectAll(absl::Duration failover_deadline = absl::Seconds(60)) {
    ConnectTo(Address("coordinator"), failover_deadline);
    WaitUntilServing(static_cast<int>(leaders_.size()));
  }

  void WaitUntilServing(int num_groups) {
    const auto num_serving = [this] {
      int count = 0;
      for (const GroupView& group : client_->view().groups) {
        count += group.serving ? 1 : 0;
      }
      return count;
    };
    while (num_serving() != num_groups) {
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  static void WaitForSubmissions(const FakeLeader& leader, size_t count) {
    while (leader.submissions().size() < count) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  std::map<int, std::unique_ptr<FakeLeader>> leaders_;
};

TEST_F(EngineClientGroupsTest, RequestsSpreadOverTheGroupsOfItsDeployment) {
  Lead(0);
  Lead(1);
  ConnectAll();
  EXPECT_EQ(coordinator_->asked_deployment(), kDeployment);
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 8; ++i) {
    generations.push_back(Start());
  }
  for (const auto& generation : generations) {
    EXPECT_EQ(*ReadAll(*generation), kAnswer);
  }
  EXPECT_EQ(leaders_[0]->submissions().size() + leaders_[1]->submissions().size(), 8U);
  EXPECT_GE(leaders_[0]->submissions().size(), 2U);
  EXPECT_GE(leaders_[1]->submissions().size(), 2U);
}

TEST_F(EngineClientGroupsTest, AGroupThatIsLostInMidStreamGoesOnInTheOtherExactly) {
  auto options = LeaderOptions("g0", 1);
  options.die_after = 100;
  Lead(0, options);
  Lead(1);
  ConnectAll();
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 10; ++i) {
    generations.push_back(Start());
  }
  WaitUntilServing(1);
  for (const auto& generation : generations) {
    EXPECT_EQ(*ReadAll(*generation), kAnswer);
  }
  EXPECT_GT(client_->view().num_moved, 0U);
  bool any_with_tokens = false;
  for (const auto& submit : leaders_[1]->submissions()) {
    any_with_tokens = any_with_tokens || submit.generated_tokens_size() > 0;
  }
  EXPECT_TRUE(any_with_tokens);
}

TEST_F(EngineClientGroupsTest, AGroupThatIsTakenOffTheListGoesOnInTheOtherAtOnce) {
  auto options = LeaderOptions("g0", 1);
  options.token_interval = absl::Milliseconds(20);
  Lead(0, options);
  ConnectAll();
  auto generation = Start();
  while (leaders_[0]->submissions().empty()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const auto first = generation->Next(absl::Seconds(10));
  ASSERT_TRUE(first.ok());
  Lead(1);
  WaitUntilServing(2);
  coordinator_->Remove(Group(0));
  std::string text;
  for (const TokenEvent& event : *first) {
    text += static_cast<char>(event.token());
  }
  for (bool ended = false; !ended;) {
    const auto events = generation->Next(absl::Seconds(1));
    ASSERT_TRUE(events.ok()) << events.status();
    for (const TokenEvent& event : *events) {
      ended = event.finish() == TokenEvent::STOP;
      text += ended ? "" : std::string(1, static_cast<char>(event.token()));
    }
  }
  EXPECT_EQ(text, kAnswer);
  EXPECT_EQ(client_->view().num_moved, 1U);
  EXPECT_EQ(client_->view().groups.size(), 1U);
}

TEST_F(EngineClientGroupsTest, ADrainingGroupFinishesAndGetsNothingNew) {
  auto options = LeaderOptions("g0", 1);
  options.token_interval = absl::Milliseconds(10);
  Lead(0, options);
  ConnectAll();
  auto old = Start();
  WaitForSubmissions(*leaders_[0], 1);
  Lead(1);
  WaitUntilServing(2);
  auto draining = ActiveGroup(Group(0), options.address, 1);
  draining.set_draining(true);
  coordinator_->Set(draining);
  while (!client_->view().groups.at(0).state.draining()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  }
  EXPECT_EQ(*ReadAll(*old), kAnswer);
  EXPECT_EQ(leaders_[0]->submissions().size(), 1U);
  EXPECT_EQ(leaders_[1]->submissions().size(), 4U);
}

TEST_F(EngineClientGroupsTest, ScaledToZeroAndBackAHeldRequestIsAnswered) {
  Lead(0);
  ConnectAll();
  coordinator_->Remove(Group(0));
  leaders_.clear();
  WaitUntilServing(0);
  EXPECT_FALSE(client_->view().serving);
  auto held = Start();
  EXPECT_TRUE(held->Next(absl::Milliseconds(50))->empty());
  auto options = LeaderOptions("again", 2);
  options.model_digest = "new";
  Lead(0, options);
  EXPECT_EQ(*ReadAll(*held), kAnswer);
  EXPECT_TRUE(client_->view().serving);
}

TEST_F(EngineClientGroupsTest, GroupsOfAnotherModelAreNotEvenCalled) {
  EngineClientOptions options;
  options.coordinator = Address("coordinator");
  options.deployment = kDeployment;
  options.journal.model_digest = "digest";
  Lead(0);
  auto of_other = LeaderOptions("g1", 1);
  of_other.model_digest = "other";
  Lead(1, of_other);
  auto listed = ActiveGroup(Group(1), of_other.address, 1);
  listed.set_model_digest("other");
  coordinator_->Set(listed);
  client_ = std::make_unique<EngineClient>(options);
  WaitUntilServing(1);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  }
  EXPECT_EQ(leaders_[0]->submissions().size(), 4U);
  EXPECT_EQ(leaders_[1]->num_streams(), 0);
  EXPECT_TRUE(client_->view().groups.at(1).other_model);
  // The old group goes: what comes now waits for one of its model.
  coordinator_->Remove(Group(0));
  WaitUntilServing(0);
  auto held = Start();
  EXPECT_TRUE(held->Next(absl::Milliseconds(50))->empty());
  Lead(2);
  EXPECT_EQ(*ReadAll(*held), kAnswer);
  EXPECT_EQ(leaders_[1]->num_streams(), 0);
}

TEST_F(EngineClientGroupsTest, AHeldRequestEndsAtTheDeadline) {
  Lead(0);
  ConnectAll(absl::Milliseconds(300));
  coordinator_->Remove(Group(0));
  WaitUntilServing(0);
  EXPECT_TRUE(absl::IsUnavailable(ReadAll(*Start()).status()));
}

TEST_F(EngineClientGroupsTest, AGroupWithTheSameNameMayComeAgain) {
  ConnectTo(Address("coordinator"));
  for (uint64_t epoch = 1; epoch <= 10; ++epoch) {
    Lead(0, LeaderOptions(absl::StrCat("life", epoch), epoch));
    WaitUntilServing(1);
    EXPECT_EQ(*ReadAll(*Start()), kAnswer);
    coordinator_->Remove(Group(0));
    if (epoch % 2 == 0) {
      WaitUntilServing(0);
    }
  }
}

TEST_F(EngineClientGroupsTest, ACoordinatorThatDoesNotLeadNamesTheOneThatDoes) {
  auto leading = std::make_unique<FakeCoordinator>("127.0.0.1:0");
  const FakeLeader leader(LeaderOptions("a", 1));
  leading->Set(ActiveGroup(Group(0), Address("a"), 1));
  coordinator_->PointTo(leading->address());
  ConnectTo(Address("coordinator"));
  WaitUntilServing(1);
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  EXPECT_EQ(leading->num_watches(), 1);
  // It ends, and the other one leads again.
  leading = nullptr;
  EXPECT_EQ(*ReadAll(*Start()), kAnswer) << "nobody needs a coordinator for that";
  coordinator_->Lead();
  Lead(1);
  // Its list counts now.
  while (client_->view().group.group() != Group(1)) {
    absl::SleepFor(absl::Milliseconds(2));
  }
}

TEST_F(EngineClientGroupsTest, CoordinatorsThatNameEachOtherAreNotAskedInAStorm) {
  FakeCoordinator one("127.0.0.1:0");
  FakeCoordinator other("127.0.0.1:0");
  one.PointTo(other.address());
  other.PointTo(one.address());
  ConnectTo(one.address());
  absl::SleepFor(absl::Seconds(1));
  EXPECT_GE(other.num_watches(), 1);
  EXPECT_LE(one.num_watches() + other.num_watches(), 20);
}

TEST_F(EngineClientGroupsTest, MoreGroupsThanItMayConnectToAreCounted) {
  EngineClientOptions options;
  options.coordinator = Address("coordinator");
  options.deployment = kDeployment;
  options.max_groups = 2;
  for (int i = 0; i < 5; ++i) {
    Lead(i);
  }
  client_ = std::make_unique<EngineClient>(options);
  WaitUntilServing(2);
  EXPECT_EQ(client_->view().num_ignored_groups, 3U);
  EXPECT_EQ(client_->view().groups.back().name, Group(1));
}

}  // namespace
}  // namespace moe::gateway
