#include "tests/gateway/testing/fake_generator.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "tests/gateway/testing/scripted_events.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway::testing {

using engine::v1::TokenEvent;

class FakeGenerator::FakeGeneration : public Generation {
 public:
  FakeGeneration(FakeGenerator& parent, GenerationRequest request, std::vector<TokenEvent> events,
                 bool refused)
      : parent_(parent),
        request_(std::move(request)),
        events_(std::move(events)),
        refused_(refused) {}

  ~FakeGeneration() override {
    absl::MutexLock lock(&parent_.mutex_);
    auto& live = parent_.live_;
    live.erase(std::find(live.begin(), live.end(), this));
    if (!refused_) {
      --parent_.num_live_;
    }
    parent_.num_cancelled_ += done_ || refused_ ? 0 : 1;
  }

  absl::StatusOr<std::vector<TokenEvent>> Next(absl::Duration /*timeout*/) override {
    absl::MutexLock lock(&parent_.mutex_);
    if (refused_) {
      return absl::ResourceExhaustedError("full");
    }
    std::vector<TokenEvent> events;
    for (int i = 0; i < parent_.piece_ && next_ < events_.size(); ++i) {
      if (parent_.fail_after_ >= 0 && static_cast<int>(next_) >= parent_.fail_after_) {
        if (!events.empty()) {
          break;
        }
        done_ = true;
        return parent_.fail_status_;
      }
      if (parent_.throw_after_ >= 0 && static_cast<int>(next_) >= parent_.throw_after_) {
        if (!events.empty()) {
          break;
        }
        throw std::runtime_error("broken at /srv/engine.cc of 10.0.0.7");
      }
      events.push_back(events_[next_++]);
    }
    done_ = next_ == events_.size();
    if (!done_ && parent_.piece_ > 0) {
      Wake();
    }
    return events;
  }

  void Wake() const {
    if (request_.on_ready) {
      request_.on_ready();
    }
  }

 private:
  FakeGenerator& parent_;
  const GenerationRequest request_;
  const std::vector<TokenEvent> events_;
  const bool refused_;
  size_t next_ = 0;
  bool done_ = false;
};

FakeGenerator::FakeGenerator() : answer_(BytesAsTokens("hello")) {
  view_.serving = true;
  view_.welcome.set_epoch(3);
  view_.welcome.set_numerics_id("cpu-test-1");
  view_.welcome.set_model_digest("digest");
  view_.welcome.set_vocab_size(kTinyVocabSize);
  view_.welcome.set_max_context(512);
  view_.welcome.set_kv_capacity_tokens(4096);
  view_.welcome.set_max_queue(64);
  view_.group.set_phase(coordinator::v1::GroupState::ACTIVE);
  view_.group.set_layout("EP2_TP1_PP1_DP1");
  view_.group.set_epoch(3);
  GroupView group;
  group.serving = true;
  group.welcome = view_.welcome;
  group.state = view_.group;
  view_.groups.push_back(group);
}

void FakeGenerator::SetAnswer(const std::string& text) { SetAnswerTokens(BytesAsTokens(text)); }

void FakeGenerator::SetAnswerTokens(std::vector<int32_t> tokens) {
  absl::MutexLock lock(&mutex_);
  answer_ = std::move(tokens);
}

void FakeGenerator::FailAfter(int num_tokens, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  fail_after_ = num_tokens;
  fail_status_ = std::move(status);
}

void FakeGenerator::ThrowAfter(int num_tokens) {
  absl::MutexLock lock(&mutex_);
  throw_after_ = num_tokens;
}

void FakeGenerator::SetEventError(const std::string& error) {
  absl::MutexLock lock(&mutex_);
  event_error_ = error;
}

void FakeGenerator::SetStartStatus(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  start_status_ = std::move(status);
}

void FakeGenerator::SetMaxLive(int max_live) {
  absl::MutexLock lock(&mutex_);
  max_live_ = max_live;
}

void FakeGenerator::SetServing(bool serving) {
  absl::MutexLock lock(&mutex_);
  view_.serving = serving;
  view_.reason = serving ? "" : "The engine is loading the model.";
  view_.groups.front().serving = serving;
  view_.groups.front().reason = view_.reason;
}

void FakeGenerator::SetOtherModelServes(bool serves) {
  absl::MutexLock lock(&mutex_);
  view_.other_model_serves = serves;
}

void FakeGenerator::SetKnown(bool known) {
  absl::MutexLock lock(&mutex_);
  known_ = known;
}

void FakeGenerator::SetPiece(int num_tokens) {
  absl::MutexLock lock(&mutex_);
  piece_ = num_tokens;
  for (const FakeGeneration* generation : live_) {
    generation->Wake();
  }
}

std::vector<GenerationRequest> FakeGenerator::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

int FakeGenerator::num_live() const {
  absl::MutexLock lock(&mutex_);
  return num_live_;
}

int FakeGenerator::num_cancelled() const {
  absl::MutexLock lock(&mutex_);
  return num_cancelled_;
}

int FakeGenerator::max_seen_live() const {
  absl::MutexLock lock(&mutex_);
  return max_seen_live_;
}

absl::StatusOr<std::unique_ptr<Generation>> FakeGenerator::Start(GenerationRequest request) {
  absl::MutexLock lock(&mutex_);
  if (throw_after_ == 0) {
    throw std::runtime_error("broken at /srv/engine.cc of 10.0.0.7");
  }
  if (!start_status_.ok()) {
    return start_status_;
  }
  std::vector<TokenEvent> events = ScriptedEvents(answer_, request.prompt_tokens, request.sampling);
  if (!event_error_.empty()) {
    TokenEvent event;
    event.set_finish(TokenEvent::ERROR);
    event.set_error(event_error_);
    events = {event};
  }
  GenerationRequest kept = request;
  kept.on_ready = nullptr;
  requests_.push_back(std::move(kept));
  const bool refused = num_live_ >= max_live_;
  num_live_ += refused ? 0 : 1;
  max_seen_live_ = std::max(max_seen_live_, num_live_);
  auto generation =
      std::make_unique<FakeGeneration>(*this, std::move(request), std::move(events), refused);
  live_.push_back(generation.get());
  if (piece_ > 0 || refused) {
    generation->Wake();
  }
  return generation;
}

engine::v1::Welcome FakeGenerator::welcome() const {
  absl::MutexLock lock(&mutex_);
  return known_ ? view_.welcome : engine::v1::Welcome();
}

EngineView FakeGenerator::view() const {
  absl::MutexLock lock(&mutex_);
  return view_;
}

}  // namespace moe::gateway::testing
