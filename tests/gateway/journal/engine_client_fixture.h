// A coordinator and an EngineClient that follows it, on unix sockets in a folder of their own.
#ifndef MOE_TESTS_GATEWAY_JOURNAL_ENGINE_CLIENT_FIXTURE_H_
#define MOE_TESTS_GATEWAY_JOURNAL_ENGINE_CLIENT_FIXTURE_H_

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "gateway/journal/engine_client.h"
#include "gtest/gtest.h"
#include "tests/gateway/testing/fake_engine.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway::testing {

inline constexpr char kAnswer[] = "the quick brown fox jumps over the lazy dog";

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
    request.sampling.set_max_tokens(400);
    request.sampling.add_stop_token_ids(kEndOfText);
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
      for (const engine::v1::TokenEvent& event : *events) {
        EXPECT_EQ(event.position(), text.size());
        if (event.finish() == engine::v1::TokenEvent::STOP) {
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

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_JOURNAL_ENGINE_CLIENT_FIXTURE_H_
