// A journal that a test drives by hand: messages of leaders in, submissions out, on a clock that
// only the test moves.
#ifndef MOE_TESTS_GATEWAY_JOURNAL_JOURNAL_FIXTURE_H_
#define MOE_TESTS_GATEWAY_JOURNAL_JOURNAL_FIXTURE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/journal/journal.h"
#include "gtest/gtest.h"
#include "proto/coordinator.pb.h"
#include "proto/engine.pb.h"

namespace moe::gateway::testing {

// Groups are named; the one of local mode has no name.
class JournalFixture : public ::testing::Test {
 protected:
  explicit JournalFixture(JournalOptions options) {
    options.now = [this] { return now_; };
    options.log = [this](const std::string& line) { log_.push_back(line); };
    journal_ = std::make_shared<Journal>(std::move(options));
  }

  static engine::v1::Welcome MakeWelcome(uint64_t epoch, const std::string& numerics = "cpu",
                                         const std::string& digest = "digest") {
    engine::v1::Welcome welcome;
    welcome.set_epoch(epoch);
    welcome.set_numerics_id(numerics);
    welcome.set_model_digest(digest);
    welcome.set_vocab_size(100);
    return welcome;
  }

  std::unique_ptr<Generation> StartPrompt(std::vector<int32_t> prompt, uint32_t max_tokens = 100) {
    GenerationRequest request;
    request.prompt_tokens = std::move(prompt);
    request.sampling.set_seed(99);
    request.sampling.set_max_tokens(max_tokens);
    request.on_ready = [this] { ++num_signals_; };
    auto generation = journal_->Start(std::move(request));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return generation.ok() ? *std::move(generation) : nullptr;
  }

  // What would be sent now, submissions and cancels.
  std::vector<engine::v1::GatewayMessage> SentTo(const std::string& group) {
    std::vector<engine::v1::GatewayMessage> messages;
    journal_->TakeOutgoing(group, absl::ZeroDuration(), &messages);
    return messages;
  }

  void TokenOf(const std::string& group, uint64_t epoch, uint64_t request, uint32_t position,
               int32_t token,
               engine::v1::TokenEvent::Finish finish = engine::v1::TokenEvent::NONE) {
    engine::v1::EngineMessage message;
    message.mutable_events()->set_epoch(epoch);
    engine::v1::TokenEvent& event = *message.mutable_events()->add_events();
    event.set_request(request);
    event.set_position(position);
    event.set_token(token);
    event.set_finish(finish);
    journal_->OnMessage(group, message);
  }

  void RejectBy(const std::string& group, uint64_t request, engine::v1::Rejected::Reason reason) {
    engine::v1::EngineMessage message;
    message.mutable_rejected()->set_request(request);
    message.mutable_rejected()->set_reason(reason);
    message.mutable_rejected()->set_message("no");
    journal_->OnMessage(group, message);
  }

  static std::vector<int32_t> Take(Generation& generation) {
    const auto events = generation.Next(absl::ZeroDuration());
    EXPECT_TRUE(events.ok()) << events.status();
    std::vector<int32_t> tokens;
    if (events.ok()) {
      for (const engine::v1::TokenEvent& event : *events) {
        tokens.push_back(event.token());
      }
    }
    return tokens;
  }

  static std::vector<int32_t> Generated(const engine::v1::Submit& submit) {
    return {submit.generated_tokens().begin(), submit.generated_tokens().end()};
  }
  static std::vector<int32_t> Generated(const engine::v1::GatewayMessage& message) {
    return Generated(message.submit());
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::vector<std::string> log_;
  std::shared_ptr<Journal> journal_;
  int num_signals_ = 0;
};

// The journal of a gateway of a deployment, and the coordinator's list.
class JournalGroupsTest : public JournalFixture {
 protected:
  JournalGroupsTest() : JournalGroupsTest("") {}
  // A gateway whose model files have this digest.
  explicit JournalGroupsTest(const std::string& model_digest)
      : JournalFixture(OptionsFor(model_digest)) {}

  // The coordinator's list, after a change to it.
  void Publish() {
    coordinator::v1::GroupStates groups;
    for (const auto& [name, state] : states_) {
      *groups.add_groups() = state;
    }
    journal_->OnGroups(groups);
  }

  coordinator::v1::GroupState& State(const std::string& name) {
    coordinator::v1::GroupState& state = states_[name];
    state.set_group(name);
    if (state.phase() == coordinator::v1::GroupState::PHASE_UNSPECIFIED) {
      state.set_phase(coordinator::v1::GroupState::ACTIVE);
    }
    return state;
  }

  void Connect(const std::string& name, const std::string& digest = "digest",
               const std::string& numerics = "cpu", uint64_t epoch = 1) {
    State(name);
    Publish();
    ASSERT_TRUE(journal_->OnWelcome(name, MakeWelcome(epoch, numerics, digest)).ok());
  }

  void Remove(const std::string& name) {
    states_.erase(name);
    Publish();
  }

  std::unique_ptr<Generation> Start(int32_t prompt = 1, uint32_t max_tokens = 100) {
    return StartPrompt({prompt}, max_tokens);
  }

  std::vector<engine::v1::GatewayMessage> Sent(const std::string& name) { return SentTo(name); }

  // The one submission that was sent to this group.
  engine::v1::Submit Submitted(const std::string& name) {
    const auto sent = Sent(name);
    EXPECT_EQ(sent.size(), 1U) << name;
    return sent.size() == 1 ? sent[0].submit() : engine::v1::Submit();
  }

  void Token(const std::string& name, uint64_t request, uint32_t position, int32_t token) {
    TokenOf(name, /*epoch=*/1, request, position, token);
  }

  void Reject(const std::string& name, uint64_t request) {
    RejectBy(name, request, engine::v1::Rejected::QUEUE_FULL);
  }

  void Speak(const std::string& name, uint32_t num_running = 0) {
    engine::v1::EngineMessage message;
    message.mutable_stats()->set_num_running(num_running);
    journal_->OnMessage(name, message);
  }

  // Time passes, while these groups speak.
  void Pass(absl::Duration duration, const std::vector<std::string>& speaking) {
    for (absl::Duration passed; passed < duration; passed += absl::Seconds(1)) {
      now_ += absl::Seconds(1);
      for (const std::string& name : speaking) {
        Speak(name);
      }
      journal_->Tick();
    }
  }

  // A sequence in group `name`, the only one, with one token.
  std::unique_ptr<Generation> Begin(const std::string& name) {
    auto generation = Start();
    Token(name, Submitted(name).request(), 0, 10);
    EXPECT_EQ(Take(*generation), std::vector<int32_t>({10}));
    return generation;
  }

  std::map<std::string, coordinator::v1::GroupState> states_;

 private:
  static JournalOptions OptionsFor(const std::string& model_digest) {
    JournalOptions options;
    options.single_group = false;
    options.model_digest = model_digest;
    return options;
  }
};

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_JOURNAL_JOURNAL_FIXTURE_H_
