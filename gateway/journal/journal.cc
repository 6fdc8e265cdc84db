// See journal.h. This file: sequences, their events and their end.
#include "gateway/journal/journal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::gateway {
namespace {

using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;
using engine::v1::Rejected;
using engine::v1::TokenEvent;

// A leader that keeps skipping positions of a sequence is broken; trying again would not end.
constexpr int kMaxResyncs = 5;

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
  if (stopping_ || !ever_connected_ || AllFailed()) {
    return absl::UnavailableError(MakeView().reason);
  }
  sequence->order = next_order_++;
  live_[sequence->order] = sequence;
  Place(sequence);
  if (sequence->number == 0) {
    sequence->stalled_since = options_.now();
  }
  return std::make_unique<JournaledGeneration>(shared_from_this(), std::move(sequence));
}

void Journal::Submit(const std::shared_ptr<Sequence>& sequence,
                     const std::shared_ptr<Group>& group) {
  sequence->group = group;
  sequence->number = next_number_++;
  sequence->retry_at = absl::InfinitePast();
  sequence->prefilled = false;
  Recount(*sequence);
  group->submitted[sequence->number] = sequence;
  GatewayMessage message;
  engine::v1::Submit& submit = *message.mutable_submit();
  submit.set_request(sequence->number);
  submit.mutable_prompt_tokens()->Add(sequence->request.prompt_tokens.begin(),
                                      sequence->request.prompt_tokens.end());
  submit.mutable_generated_tokens()->Add(sequence->generated.begin(), sequence->generated.end());
  *submit.mutable_sampling() = sequence->request.sampling;
  group->outgoing.push_back(std::move(message));
  group->outgoing_changed.Signal();
}

void Journal::Cancel(Sequence& sequence) {
  if (sequence.number == 0) {
    return;
  }
  Group& group = *sequence.group;
  group.submitted.erase(sequence.number);
  if (group.connected) {
    GatewayMessage message;
    message.mutable_cancel()->set_request(sequence.number);
    group.outgoing.push_back(std::move(message));
    group.outgoing_changed.Signal();
  }
  sequence.number = 0;
  Recount(sequence);
}

void Journal::Recount(Sequence& sequence) {
  int64_t tokens = 0;
  if (sequence.number != 0 && !sequence.finished) {
    const auto num_generated = static_cast<int64_t>(sequence.generated.size());
    tokens = std::max<int64_t>(
        0, static_cast<int64_t>(sequence.request.sampling.max_tokens()) - num_generated);
    if (!sequence.prefilled) {
      tokens += static_cast<int64_t>(sequence.request.prompt_tokens.size()) + num_generated;
    }
  }
  if (sequence.group != nullptr) {
    sequence.group->outstanding_tokens += tokens - sequence.outstanding_tokens;
  }
  sequence.outstanding_tokens = tokens;
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
  if (sequence->group != nullptr) {
    sequence->group->submitted.erase(sequence->number);
    sequence->number = 0;
    Recount(*sequence);
  }
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

void Journal::OnMessage(const std::string& group_name, const EngineMessage& message) {
  absl::MutexLock lock(&mutex_);
  const std::shared_ptr<Group> group = Find(group_name);
  if (group == nullptr || !group->connected) {
    return;
  }
  group->last_heard = options_.now();
  switch (message.message_case()) {
    case EngineMessage::kEvents:
      if (message.events().epoch() < group->epoch) {
        num_dropped_events_ += static_cast<uint64_t>(message.events().events_size());
        return;
      }
      group->epoch = message.events().epoch();
      for (const TokenEvent& event : message.events().events()) {
        OnEvent(*group, event);
      }
      return;
    case EngineMessage::kRejected:
      OnRejected(*group, message.rejected());
      return;
    case EngineMessage::kStats:
      group->stats = message.stats();
      return;
    case EngineMessage::kWelcome:
    case EngineMessage::MESSAGE_NOT_SET:
      return;
  }
}

void Journal::OnEvent(Group& group, const TokenEvent& event) {
  const auto found = group.submitted.find(event.request());
  if (found == group.submitted.end()) {
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
        Submit(sequence, sequence->group);
      }
    }
    return;
  }
  if (!sequence->begun()) {
    sequence->model_digest = group.welcome.model_digest();
    sequence->numerics_id = group.welcome.numerics_id();
  }
  sequence->generated.push_back(event.token());
  sequence->prefilled = true;
  Recount(*sequence);
  sequence->num_resyncs = 0;
  sequence->num_refusals = 0;
  sequence->stalled_since = absl::InfiniteFuture();
  sequence->ready.push_back(event);
  if (event.finish() != TokenEvent::NONE) {
    End(sequence, absl::OkStatus());
  } else {
    Signal(*sequence);
  }
}

void Journal::OnRejected(Group& group, const Rejected& rejected) {
  const auto found = group.submitted.find(rejected.request());
  if (found == group.submitted.end()) {
    return;
  }
  const std::shared_ptr<Sequence> sequence = found->second;
  group.submitted.erase(found);
  sequence->number = 0;
  Recount(*sequence);
  if (rejected.reason() != Rejected::QUEUE_FULL) {
    End(sequence, absl::InvalidArgumentError(rejected.message()));
    return;
  }
  const absl::Time now = options_.now();
  group.full_until = now + options_.queue_full_retry;
  // Refused before any leader took it: the client can try again, unless another group has room now.
  // Else it was accepted once and this journal keeps the promise.
  const bool first_submission =
      !sequence->begun() && sequence->stalled_since == absl::InfiniteFuture();
  const bool tried_all = ++sequence->num_refusals >= NumUsable();
  const std::shared_ptr<Group> other = tried_all ? nullptr : Choose(*sequence, /*placed=*/true);
  if (other != nullptr) {
    num_moved_ += sequence->begun() ? 1 : 0;
    Submit(sequence, other);
  } else if (first_submission) {
    End(sequence, absl::ResourceExhaustedError("the engine's queue is full"));
  } else {
    sequence->stalled_since = std::min(sequence->stalled_since, now);
    sequence->retry_at = group.full_until;
  }
}

void Journal::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  EndAll(absl::UnavailableError("the server is shutting down"));
  for (const auto& [name, group] : groups_) {
    group->outgoing_changed.SignalAll();
  }
}

}  // namespace moe::gateway
