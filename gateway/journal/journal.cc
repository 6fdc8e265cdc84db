// See journal.h.
#include "gateway/journal/journal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::gateway {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;
using engine::v1::Rejected;
using engine::v1::TokenEvent;

// A leader that keeps skipping positions of a sequence is broken; trying again would not end.
constexpr int kMaxResyncs = 5;
constexpr absl::Duration kLastingConnection = absl::Seconds(10);

}  // namespace

class Journal::JournaledGeneration : public Generation {
 public:
  JournaledGeneration(std::shared_ptr<Journal> journal, std::shared_ptr<Sequence> sequence)
      : journal_(std::move(journal)), sequence_(std::move(sequence)) {}

  ~JournaledGeneration() override { journal_->Drop(*sequence_); }
  JournaledGeneration(const JournaledGeneration&) = delete;
  JournaledGeneration& operator=(const JournaledGeneration&) = delete;

  absl::StatusOr<std::vector<TokenEvent>> Next(absl::Duration timeout) override {
    const absl::Time deadline = absl::Now() + timeout;
    absl::MutexLock lock(&journal_->mutex_);
    Sequence& sequence = *sequence_;
    while (sequence.ready.empty() && !sequence.finished && timeout > absl::ZeroDuration()) {
      if (sequence.changed.WaitWithDeadline(&journal_->mutex_, deadline)) {
        break;
      }
    }
    std::vector<TokenEvent> events(std::make_move_iterator(sequence.ready.begin()),
                                   std::make_move_iterator(sequence.ready.end()));
    sequence.ready.clear();
    if (events.empty() && sequence.finished && !sequence.status.ok()) {
      return sequence.status;
    }
    return events;
  }

 private:
  std::shared_ptr<Journal> journal_;
  std::shared_ptr<Sequence> sequence_;
};

absl::StatusOr<std::unique_ptr<Generation>> Journal::Start(GenerationRequest request) {
  auto sequence = std::make_shared<Sequence>();
  sequence->request = std::move(request);
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("The server is shutting down.");
  }
  if (!ever_connected_ || group_.phase() == GroupState::FAILED) {
    return absl::UnavailableError(WhyNotServing());
  }
  sequence->order = next_order_++;
  sequence->model_digest = welcome_.model_digest();
  sequence->numerics_id = welcome_.numerics_id();
  live_[sequence->order] = sequence;
  if (connected_) {
    Submit(*sequence);
  } else {
    sequence->stalled_since = options_.now();
  }
  return std::make_unique<JournaledGeneration>(shared_from_this(), std::move(sequence));
}

void Journal::Submit(Sequence& sequence) {
  sequence.number = next_number_++;
  sequence.retry_at = absl::InfiniteFuture();
  submitted_[sequence.number] = live_.at(sequence.order);
  GatewayMessage message;
  engine::v1::Submit& submit = *message.mutable_submit();
  submit.set_request(sequence.number);
  submit.mutable_prompt_tokens()->Add(sequence.request.prompt_tokens.begin(),
                                      sequence.request.prompt_tokens.end());
  submit.mutable_generated_tokens()->Add(sequence.generated.begin(), sequence.generated.end());
  *submit.mutable_sampling() = sequence.request.sampling;
  outgoing_.push_back(std::move(message));
  outgoing_changed_.Signal();
}

void Journal::Cancel(Sequence& sequence) {
  if (sequence.number == 0) {
    return;
  }
  submitted_.erase(sequence.number);
  if (connected_) {
    GatewayMessage message;
    message.mutable_cancel()->set_request(sequence.number);
    outgoing_.push_back(std::move(message));
    outgoing_changed_.Signal();
  }
  sequence.number = 0;
}

void Journal::Drop(Sequence& sequence) {
  absl::MutexLock lock(&mutex_);
  sequence.request.on_ready = nullptr;
  if (!sequence.finished) {
    sequence.finished = true;
    Cancel(sequence);
    live_.erase(sequence.order);
  }
}

void Journal::Signal(Sequence& sequence) {
  sequence.changed.SignalAll();
  if (sequence.request.on_ready) {
    sequence.request.on_ready();
  }
}

void Journal::End(const std::shared_ptr<Sequence>& sequence, absl::Status status) {
  sequence->finished = true;
  sequence->status = std::move(status);
  submitted_.erase(sequence->number);
  live_.erase(sequence->order);
  Signal(*sequence);
}

void Journal::EndAll(const absl::Status& status) {
  while (!live_.empty()) {
    const std::shared_ptr<Sequence> sequence = live_.begin()->second;
    Cancel(*sequence);
    End(sequence, status);
  }
}

absl::Status Journal::OnWelcome(const engine::v1::Welcome& welcome) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    return absl::UnavailableError("The server is shutting down.");
  }
  if (welcome.epoch() < epoch_) {
    refused_reason_ = absl::StrCat("a leader of epoch ", welcome.epoch(), " answered; epoch ",
                                   epoch_, " is already known");
    return absl::FailedPreconditionError(refused_reason_);
  }
  if (ever_connected_ && welcome.model_digest() != welcome_.model_digest()) {
    refused_reason_ = "the engine serves another model than when this gateway started";
    EndAll(absl::FailedPreconditionError(refused_reason_));
    return absl::FailedPreconditionError(refused_reason_);
  }
  refused_reason_.clear();
  num_failovers_ += ever_connected_ ? 1 : 0;
  connected_ = true;
  ever_connected_ = true;
  epoch_ = welcome.epoch();
  welcome_ = welcome;
  last_heard_ = connected_at_ = options_.now();
  outgoing_.clear();
  const std::map<uint64_t, std::shared_ptr<Sequence>> live = live_;
  for (const auto& [order, sequence] : live) {
    if (sequence->numerics_id != welcome.numerics_id()) {
      End(sequence, absl::FailedPreconditionError("the engine's numerics changed"));
    } else {
      Submit(*sequence);
    }
  }
  return absl::OkStatus();
}

void Journal::OnDisconnect() {
  absl::MutexLock lock(&mutex_);
  connected_ = false;
  submitted_.clear();
  outgoing_.clear();
  outgoing_changed_.SignalAll();
  const absl::Time now = options_.now();
  // A leader that lasted is a success, so the deadline starts anew. One that dies at once is not:
  // a group in a crash loop must reach the deadline.
  const bool lasted = now - connected_at_ >= kLastingConnection;
  for (auto& [order, sequence] : live_) {
    const bool restart = lasted && sequence->number != 0;
    sequence->stalled_since = restart ? now : std::min(sequence->stalled_since, now);
    sequence->number = 0;
    sequence->retry_at = absl::InfiniteFuture();
  }
}

void Journal::OnMessage(const EngineMessage& message) {
  absl::MutexLock lock(&mutex_);
  last_heard_ = options_.now();
  switch (message.message_case()) {
    case EngineMessage::kEvents:
      if (message.events().epoch() < epoch_) {
        num_dropped_events_ += static_cast<uint64_t>(message.events().events_size());
        return;
      }
      epoch_ = message.events().epoch();
      for (const TokenEvent& event : message.events().events()) {
        OnEvent(event);
      }
      return;
    case EngineMessage::kRejected:
      OnRejected(message.rejected());
      return;
    case EngineMessage::kStats:
      stats_ = message.stats();
      return;
    case EngineMessage::kWelcome:
    case EngineMessage::MESSAGE_NOT_SET:
      return;
  }
}

void Journal::OnEvent(const TokenEvent& event) {
  const auto found = submitted_.find(event.request());
  if (found == submitted_.end()) {
    ++num_dropped_events_;  // cancelled, or of an earlier submission
    return;
  }
  const std::shared_ptr<Sequence> sequence = found->second;
  if (event.finish() == TokenEvent::ERROR) {
    sequence->ready.push_back(event);
    End(sequence, absl::OkStatus());
    return;
  }
  if (event.position() != sequence->generated.size()) {
    ++num_dropped_events_;
    if (event.position() > sequence->generated.size()) {
      // A token is missing. The leader computes on from what this journal holds.
      Cancel(*sequence);
      if (++sequence->num_resyncs > kMaxResyncs) {
        End(sequence, absl::InternalError("the leader skips tokens of this sequence"));
      } else {
        Submit(*sequence);
      }
    }
    return;
  }
  sequence->generated.push_back(event.token());
  sequence->num_resyncs = 0;
  sequence->stalled_since = absl::InfiniteFuture();
  sequence->ready.push_back(event);
  if (event.finish() != TokenEvent::NONE) {
    End(sequence, absl::OkStatus());
  } else {
    Signal(*sequence);
  }
}

void Journal::OnRejected(const Rejected& rejected) {
  const auto found = submitted_.find(rejected.request());
  if (found == submitted_.end()) {
    return;
  }
  const std::shared_ptr<Sequence> sequence = found->second;
  submitted_.erase(found);
  sequence->number = 0;
  if (rejected.reason() != Rejected::QUEUE_FULL) {
    End(sequence, absl::InvalidArgumentError(rejected.message()));
    return;
  }
  // Refused before any leader took it: the client can try again. Else it was accepted once and
  // this journal keeps the promise.
  const bool first_submission =
      sequence->generated.empty() && sequence->stalled_since == absl::InfiniteFuture();
  if (first_submission) {
    End(sequence, absl::ResourceExhaustedError("the engine's queue is full"));
    return;
  }
  const absl::Time now = options_.now();
  sequence->stalled_since = std::min(sequence->stalled_since, now);
  sequence->retry_at = now + options_.queue_full_retry;
}

void Journal::OnGroup(const GroupState& group) {
  absl::MutexLock lock(&mutex_);
  group_ = group;
  if (group.phase() == GroupState::FAILED) {
    EndAll(absl::UnavailableError("the engine has failed"));
  }
}

void Journal::Tick() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = options_.now();
  const std::map<uint64_t, std::shared_ptr<Sequence>> live = live_;
  for (const auto& [order, sequence] : live) {
    // Time in a live leader's queue is not a stall: the leader has it and says so by its silence.
    const bool waits_here = sequence->number == 0;
    if (waits_here && now - sequence->stalled_since >= options_.failover_deadline) {
      End(sequence, absl::UnavailableError("no engine took this request over in time"));
    } else if (connected_ && waits_here && now >= sequence->retry_at) {
      Submit(*sequence);
    }
  }
}

void Journal::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  EndAll(absl::UnavailableError("the server is shutting down"));
  outgoing_changed_.SignalAll();
}

std::vector<GatewayMessage> Journal::TakeOutgoing() {
  absl::MutexLock lock(&mutex_);
  while (connected_ && !stopping_ && outgoing_.empty()) {
    outgoing_changed_.Wait(&mutex_);
  }
  std::vector<GatewayMessage> messages;
  if (connected_) {
    messages.swap(outgoing_);
  }
  return messages;
}

bool Journal::connected() const {
  absl::MutexLock lock(&mutex_);
  return connected_;
}

absl::Time Journal::last_heard() const {
  absl::MutexLock lock(&mutex_);
  return last_heard_;
}

std::string Journal::WhyNotServing() const {
  if (stopping_) {
    return "The server is shutting down.";
  }
  switch (group_.phase()) {
    case GroupState::STARTING:
      return "The engine is starting.";
    case GroupState::LOADING:
      return "The engine is loading the model.";
    case GroupState::CONNECTING:
      return "The engine is connecting its workers.";
    case GroupState::RECOVERING:
      return "The engine is recovering from the loss of a worker.";
    case GroupState::FAILED:
      return "The engine has failed.";
    case GroupState::STOPPING:
      return "The engine is stopping.";
    default:
      break;
  }
  if (!refused_reason_.empty()) {
    return absl::StrCat("The engine can't be used: ", refused_reason_, ".");
  }
  return ever_connected_ ? "The engine does not answer." : "The engine is not connected yet.";
}

EngineView Journal::view() const {
  absl::MutexLock lock(&mutex_);
  EngineView view;
  // A leader that waits for the next epoch speaks, but computes nothing.
  const bool between_epochs =
      group_.phase() == GroupState::RECOVERING || group_.phase() == GroupState::FAILED;
  view.serving = connected_ && !stopping_ && !between_epochs &&
                 options_.now() - last_heard_ <= options_.silence;
  if (!view.serving) {
    view.reason = WhyNotServing();
  }
  view.welcome = welcome_;
  view.stats = stats_;
  view.group = group_;
  view.num_failovers = num_failovers_;
  view.num_dropped_events = num_dropped_events_;
  return view;
}

}  // namespace moe::gateway
