// Tests gateway/journal/engine_client.h against a coordinator and leaders in this process.
#include "gateway/journal/engine_client.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/gateway/journal/engine_client_fixture.h"

namespace moe::gateway {
namespace {

using engine::v1::TokenEvent;
using testing::EngineClientTest;
using testing::FakeLeader;
using testing::kAnswer;

TEST_F(EngineClientTest, SaysUnavailableUntilALeaderIsThere) {
  Connect();
  EXPECT_TRUE(absl::IsUnavailable(client_->Start({}).status()));
  FakeLeader leader(LeaderOptions("a", 1));
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  EXPECT_EQ(client_->view().welcome.vocab_size(), static_cast<uint32_t>(testing::kTinyVocabSize));
  EXPECT_EQ(client_->view().group.layout(), "EP2_TP1_PP1_DP1");
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
}

TEST_F(EngineClientTest, ALeaderThatDiesInMidStreamLeavesNoGapAndNoDouble) {
  Connect();
  auto options = LeaderOptions("a", 1);
  options.die_after = 37;
  auto first = std::make_unique<FakeLeader>(options);
  FakeLeader second(LeaderOptions("b", 2));
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  std::vector<std::unique_ptr<Generation>> generations;
  for (int i = 0; i < 5; ++i) {
    generations.push_back(Start());
  }
  // The coordinator notices later than the gateway.
  while (client_->view().serving) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  absl::SleepFor(absl::Milliseconds(50));
  coordinator_->SetLeader(Address("b"), 2);
  for (const auto& generation : generations) {
    EXPECT_EQ(*ReadAll(*generation), kAnswer);
  }
  EXPECT_EQ(client_->view().num_failovers, 1U);
  bool any_with_tokens = false;
  for (const auto& submit : second.submissions()) {
    any_with_tokens = any_with_tokens || submit.generated_tokens_size() > 0;
    EXPECT_EQ(submit.prompt_tokens_size(), 6);
  }
  EXPECT_TRUE(any_with_tokens);
}

TEST_F(EngineClientTest, DuplicatesGapsAndSkippedTokensAreMended) {
  Connect();
  auto options = LeaderOptions("a", 1);
  int counter = 0;
  options.distort = [&counter](const TokenEvent& event) -> std::vector<TokenEvent> {
    if (event.finish() != TokenEvent::NONE) {
      return {event};  // nothing would follow that shows its loss
    }
    switch (++counter % 7) {
      case 3:
        return {event, event};
      case 5:
        return {};  // lost
      case 6: {
        TokenEvent far = event;
        far.set_position(event.position() + 3);
        return {far};
      }
      default:
        return {event};
    }
  };
  FakeLeader leader(options);
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  EXPECT_GT(client_->view().num_dropped_events, 0U);
}

TEST_F(EngineClientTest, ALeaderOfAnOldEpochIsNotUsed) {
  Connect();
  auto current = std::make_unique<FakeLeader>(LeaderOptions("new", 5));
  FakeLeader stale(LeaderOptions("old", 4));
  coordinator_->SetLeader(Address("new"), 5);
  WaitUntilServing();
  coordinator_->SetLeader(Address("old"), 4);
  auto generation = Start();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_TRUE(stale.submissions().empty());
  coordinator_->SetLeader(Address("new"), 5);
  EXPECT_EQ(*ReadAll(*generation), kAnswer);
}

TEST_F(EngineClientTest, WithoutANewLeaderTheDeadlineEndsIt) {
  Connect(absl::Milliseconds(300));
  auto options = LeaderOptions("a", 1);
  options.die_after = 5;
  FakeLeader leader(options);
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  auto generation = Start();
  EXPECT_TRUE(absl::IsUnavailable(ReadAll(*generation).status()));
}

TEST_F(EngineClientTest, LosingTheCoordinatorDisturbsNothing) {
  Connect();
  FakeLeader leader(LeaderOptions("a", 1));
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  auto generation = Start();
  coordinator_ = nullptr;
  EXPECT_EQ(*ReadAll(*generation), kAnswer);
  EXPECT_EQ(*ReadAll(*Start()), kAnswer);
  EXPECT_EQ(client_->view().num_failovers, 0U);
}

TEST_F(EngineClientTest, ACancelReachesTheLeader) {
  Connect();
  auto options = LeaderOptions("a", 1);
  options.token_interval = absl::Milliseconds(50);
  FakeLeader leader(options);
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  auto generation = Start();
  while (leader.submissions().empty()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  generation = nullptr;
  while (leader.num_cancels() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

TEST_F(EngineClientTest, GenerationsMayOutliveTheClient) {
  Connect();
  FakeLeader leader(LeaderOptions("a", 1));
  coordinator_->SetLeader(Address("a"), 1);
  WaitUntilServing();
  auto generation = Start();
  client_ = nullptr;
  EXPECT_FALSE(ReadAll(*generation).ok());
}

}  // namespace
}  // namespace moe::gateway
