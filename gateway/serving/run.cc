// See run.h.
#include "gateway/serving/run.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"

namespace moe::gateway {

using engine::v1::TokenEvent;

struct Run::Active {
  Active(const Job& job, const text::Tokenizer& tokenizer, int index)
      : choice(job, tokenizer, index) {}

  Choice choice;
  std::unique_ptr<Generation> generation;  // null once it ended
  absl::Time first_token;
  absl::Time last_token;
  bool has_first_token = false;
  double queue_seconds = 0;
  double prefill_seconds = 0;
};

Run::Run(const Job& job, const text::Tokenizer& tokenizer, Generator& generator,
         GatewayMetrics& metrics, RunOptions options)
    : job_(job),
      tokenizer_(tokenizer),
      generator_(generator),
      metrics_(metrics),
      options_(options),
      active_(static_cast<size_t>(job.num_choices())),
      last_sent_(absl::Now()) {
  for (int i = 0; i < job.num_choices(); ++i) {
    to_start_.push_back(i);
  }
}

Run::~Run() {
  for (const auto& active : active_) {
    if (active != nullptr && active->generation != nullptr) {
      Report(*active, FinishedReason::kAbort);
    }
  }
}

absl::Status Run::StartMore() {
  while (!to_start_.empty() && static_cast<int>(running_.size()) < options_.max_active &&
         absl::Now() >= start_again_) {
    const int index = to_start_.front();
    auto active = std::make_unique<Active>(job_, tokenizer_, index);
    const JobPrompt& prompt = active->choice.prompt();
    GenerationRequest request;
    request.prompt_tokens = prompt.tokens;
    request.sampling = job_.sampling;
    request.sampling.set_choice(static_cast<uint32_t>(index % job_.n));
    request.sampling.set_max_tokens(prompt.max_tokens);
    request.sampling.set_min_tokens(
        static_cast<uint32_t>(std::min<int64_t>(job_.min_tokens, prompt.max_tokens)));
    request.on_ready = [wakeup = wakeup_] {
      absl::MutexLock lock(&wakeup->mutex);
      wakeup->set = true;
    };
    absl::StatusOr<std::unique_ptr<Generation>> generation = generator_.Start(std::move(request));
    if (!generation.ok()) {
      return generation.status();
    }
    active->generation = *std::move(generation);
    active_[static_cast<size_t>(index)] = std::move(active);
    running_.push_back(index);
    to_start_.pop_front();
  }
  return absl::OkStatus();
}

void Run::Report(const Active& active, FinishedReason reason) {
  FinishedChoice finished;
  finished.reason = reason;
  finished.num_prompt_tokens = static_cast<int64_t>(active.choice.prompt().tokens.size());
  finished.num_generated_tokens = active.choice.num_generated();
  finished.end_to_end = absl::Now() - job_.arrival;
  finished.has_first_token = active.has_first_token;
  finished.queue_seconds = active.queue_seconds;
  finished.prefill_seconds = active.prefill_seconds;
  finished.decode = active.last_token - active.first_token;
  metrics_.OnFinished(finished);
}

void Run::OnToken(Active& active, const TokenEvent& event) {
  const absl::Time now = absl::Now();
  if (!active.has_first_token) {
    active.has_first_token = true;
    active.first_token = now;
    active.queue_seconds = event.queue_seconds();
    active.prefill_seconds = event.prefill_seconds();
    metrics_.OnFirstToken(now - job_.arrival,
                          static_cast<int64_t>(active.choice.prompt().tokens.size()));
  } else {
    metrics_.OnInterToken(now - active.last_token);
  }
  active.last_token = now;
  metrics_.OnToken();
}

absl::Status Run::TakeEvents(int index, bool* ended) {
  Active& active = *active_[static_cast<size_t>(index)];
  absl::StatusOr<std::vector<TokenEvent>> events = active.generation->Next(absl::ZeroDuration());
  if (!events.ok()) {
    *ended = true;
    // A queue that is full refuses a request of which nothing runs. Of one that has begun, or whose
    // other sequences were taken, the rest is tried again.
    if (absl::IsResourceExhausted(events.status()) && (any_event_ || running_.size() > 1)) {
      active_[static_cast<size_t>(index)] = nullptr;
      to_start_.push_front(index);
      start_again_ = absl::Now() + options_.queue_full_retry;
      return absl::OkStatus();
    }
    Report(active, FinishedReason::kError);
    active.generation = nullptr;
    return events.status();
  }
  for (const TokenEvent& event : *events) {
    any_event_ = true;
    if (event.finish() != TokenEvent::ERROR) {
      OnToken(active, event);
    }
    if (absl::Status status = active.choice.OnEvent(event); !status.ok()) {
      Report(active, FinishedReason::kError);
      active.generation = nullptr;
      return status;
    }
    if (active.choice.finished()) {
      *ended = true;
      active.generation = nullptr;  // cancels it, if the engine did not end it
      ++num_finished_;
      num_generated_ += active.choice.num_generated();
      Report(active,
             active.choice.cut_by_length() ? FinishedReason::kLength : FinishedReason::kStop);
      break;
    }
  }
  return absl::OkStatus();
}

absl::Status Run::Advance(const Cancelled& cancelled) {
  if (absl::Status status = StartMore(); !status.ok()) {
    return status;
  }
  {
    absl::MutexLock lock(&wakeup_->mutex);
    wakeup_->mutex.AwaitWithTimeout(absl::Condition(&wakeup_->set), options_.poll_interval);
    wakeup_->set = false;
  }
  for (size_t i = 0; i < running_.size();) {
    bool ended = false;
    if (absl::Status status = TakeEvents(running_[i], &ended); !status.ok()) {
      return status;
    }
    if (ended) {
      running_.erase(running_.begin() + static_cast<ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  // Also while tokens come: nobody writes to the client of an answer in one piece.
  if (const absl::Time now = absl::Now(); now >= next_check_) {
    next_check_ = now + options_.poll_interval;
    cancelled_ = cancelled();
  }
  return absl::OkStatus();
}

bool Run::all_done() const { return num_finished_ == job_.num_choices(); }

std::optional<ApiError> Run::Begin(const Cancelled& cancelled) {
  while (!any_event_) {
    if (absl::Status status = Advance(cancelled); !status.ok()) {
      return FromStatus(status);
    }
    if (cancelled_) {
      return HttpError(kClientGone, "The client closed the connection.");
    }
  }
  return std::nullopt;
}

std::optional<ApiError> Run::Finish(const Cancelled& cancelled, std::string* json) {
  while (!all_done()) {
    if (absl::Status status = Advance(cancelled); !status.ok()) {
      return FromStatus(status);
    }
    if (cancelled_) {
      return HttpError(kClientGone, "The client closed the connection.");
    }
  }
  std::vector<ChoicePart> choices;
  choices.reserve(active_.size());
  for (const auto& active : active_) {
    choices.push_back(active->choice.Take());
  }
  *json = WholeResponse(job_.head, choices, usage());
  return std::nullopt;
}

bool Run::NextEvents(const Cancelled& cancelled, std::string* sse) {
  if (ended_) {
    return false;
  }
  const auto give = [&] {
    for (const auto& active : active_) {
      if (active == nullptr || !active->choice.has_news()) {
        continue;
      }
      *sse += SseEvent(ChunkResponse(
          job_.head, active->choice.Take(),
          job_.streaming.continuous_usage_stats ? std::optional<Usage>(usage()) : std::nullopt));
    }
  };
  give();  // what Begin has found
  while (sse->empty() && !all_done()) {
    if (absl::Status status = Advance(cancelled); !status.ok()) {
      give();
      *sse += SseError(FromStatus(status));
      ended_ = true;
      return false;
    }
    if (cancelled_) {
      ended_ = true;
      return false;
    }
    give();
    if (sse->empty() && absl::Now() - last_sent_ >= options_.keep_alive) {
      sse->append(kSseKeepAlive.data(), kSseKeepAlive.size());
    }
  }
  last_sent_ = absl::Now();
  if (!all_done()) {
    return true;
  }
  if (job_.streaming.include_usage) {
    *sse += SseEvent(UsageChunk(job_.head, usage()));
  }
  sse->append(kSseDone.data(), kSseDone.size());
  ended_ = true;
  return false;
}

Usage Run::usage() const {
  Usage usage;
  for (const JobPrompt& prompt : job_.prompts) {
    usage.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  }
  usage.completion_tokens = num_generated_;
  for (const auto& active : active_) {
    if (active != nullptr && !active->choice.finished()) {
      usage.completion_tokens += active->choice.num_generated();
    }
  }
  return usage;
}

}  // namespace moe::gateway
