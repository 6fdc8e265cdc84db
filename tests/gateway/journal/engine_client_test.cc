// Tests gateway/journal/engine_client.h against a coordinator and leaders in this process.
#include "gateway/journal/engine_client.h"

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/testing/fake_engine.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway {
namespace {

using engine::v1::TokenEvent;
using testing::BytesAsTokens;
using testing::FakeCoordinator;
using testing::FakeLeader;
using testing::FakeLeaderOptions;

constexpr char kAnswer[] = "the quick brown fox jumps over the lazy dog";

class EngineClientTest : public ::testing::Test {
 protected:
  EngineClientTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "moe-client-XXXXXX";
    folder_ = mkdtemp(pattern.data());
    coordinator_ = std::make_unique<FakeCoordinator>(Address("coordinator"));
  }
  ~EngineClientTest() override {
    client_ = nullptr;
    std::filesystem::remove_all(folder_);
  }

  std::string Address(const std::string& name) const {
    return "unix:" + folder_ + "/" + name + ".sock";
  }

  FakeLeaderOptions LeaderOptions(const std::string& name, uint64_t epoch) const {
    FakeLeaderOptions options;
    options.address = Address(name);
    options.epoch = epoch;
    options.answer = BytesAsTokens(kAnswer);
    return options;
  }

  void Connect(absl::Duration failover_deadline = absl::Seconds(60)) {
    EngineClientOptions options;
    options.coordinator = Address("coordinator");
    options.gateway_id = "test";
    options.journal.failover_deadline = failover_deadline;
    client_ = std::make_unique<EngineClient>(options);
  }

  void WaitUntilServing() {
    while (!client_->view().serving) {
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  std::unique_ptr<Generation> Start() {
    GenerationRequest request;
    request.prompt_tokens = BytesAsTokens("prompt");
    request.sampling.set_max_tokens(1000);
    request.sampling.add_stop_token_ids(testing::kEndOfText);
    auto generation = client_->Start(std::move(request));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return *std::move(generation);
  }

  // The text until the end; checks that every position comes once.
  static absl::StatusOr<std::string> ReadAll(Generation& generation) {
    std::string text;
    for (;;) {
      auto events = generation.Next(absl::Seconds(1));
      if (!events.ok()) {
        return events.status();
      }
      for (const TokenEvent& event : *events) {
        EXPECT_EQ(event.position(), text.size());
        if (event.finish() == TokenEvent::STOP) {
          return text;
        }
        text += static_cast<char>(event.token());
      }
    }
  }

  std::string folder_;
  std::unique_ptr<FakeCoordinator> coordinator_;
  std::unique_ptr<EngineClient> client_;
};

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
