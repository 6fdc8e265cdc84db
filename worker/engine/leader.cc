#include "worker/engine/leader.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "worker/engine/request_check.h"

namespace moe::engine {
namespace {

RequestLimits LimitsOf(const LeaderOptions& options) {
  return {.max_context = options.max_context,
          .vocab_size = options.vocab_size,
          .max_logprobs = options.max_logprobs,
          .kv_tokens_per_owner =
              int64_t{options.limits.kv_blocks_per_owner} * options.limits.kv_block_tokens};
}

v1::Rejected QueueFull(uint64_t request, size_t num_live) {
  v1::Rejected rejected;
  rejected.set_request(request);
  rejected.set_reason(v1::Rejected::QUEUE_FULL);
  rejected.set_message(absl::StrFormat("%d sequences are running or waiting already", num_live));
  return rejected;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Leader>> Leader::Create(LeaderOptions options, uint64_t epoch,
                                                       EventSink* sink) {
  const SchedulerLimits& limits = options.limits;
  if (limits.num_owners < 1 || limits.max_sequences < 1 || limits.max_step_tokens < 1 ||
      limits.kv_blocks_per_owner < 1 || limits.kv_block_tokens < 1 || options.max_queue < 0 ||
      options.max_context < 2 || options.vocab_size < 1 || options.max_logprobs < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "no sequence can run with %d owners, %d sequences, %d tokens in a step, %d KV blocks of %d "
        "tokens, a queue of %d, a context of %d, a vocabulary of %d",
        limits.num_owners, limits.max_sequences, limits.max_step_tokens, limits.kv_blocks_per_owner,
        limits.kv_block_tokens, options.max_queue, options.max_context, options.vocab_size));
  }
  return std::unique_ptr<Leader>(new Leader(std::move(options), epoch, sink));
}

Leader::Leader(LeaderOptions options, uint64_t epoch, EventSink* sink)
    : options_(std::move(options)),
      sink_(sink),
      epoch_(epoch),
      pending_releases_(static_cast<size_t>(options_.limits.num_owners)) {
  RecordCall();
}

std::optional<v1::Rejected> Leader::Submit(uint64_t client, v1::Submit submit, absl::Time now) {
  const std::vector<int32_t> stop_tokens = StopTokens(submit.sampling(), options_.end_token_ids);
  if (auto rejected = CheckRequest(submit, LimitsOf(options_), stop_tokens); rejected.has_value()) {
    return rejected;
  }
  v1::SamplingParams* sampling = submit.mutable_sampling();
  sampling->mutable_stop_token_ids()->Assign(stop_tokens.begin(), stop_tokens.end());
  // The first token went out with them.
  if (submit.generated_tokens_size() > 0) sampling->set_num_prompt_logprobs(-1);

  const size_t max_live = (static_cast<size_t>(options_.limits.max_sequences) +
                           static_cast<size_t>(options_.max_queue)) *
                          (submit.generated_tokens_size() > 0 ? 2 : 1);
  const absl::MutexLock lock(&mutex_);
  const RequestKey key = {client, submit.request()};
  if (live_.contains(key)) {
    v1::Rejected rejected;
    rejected.set_request(submit.request());
    rejected.set_reason(v1::Rejected::INVALID);
    rejected.set_message("a request with this number has not ended");
    return rejected;
  }
  if (live_.size() >= max_live) return QueueFull(submit.request(), live_.size());
  live_.emplace(key, false);
  inbox_.emplace_back(SubmitEvent{.client = client, .submit = std::move(submit), .time = now});
  return std::nullopt;
}

void Leader::Cancel(uint64_t client, uint64_t request) {
  const absl::MutexLock lock(&mutex_);
  const auto it = live_.find({client, request});
  if (it == live_.end() || it->second) return;
  it->second = true;
  inbox_.emplace_back(CancelEvent{.client = client, .request = request});
}

void Leader::ClientGone(uint64_t client) {
  const absl::MutexLock lock(&mutex_);
  inbox_.emplace_back(ClientGoneEvent{.client = client});
}

void Leader::Wake() {
  const absl::MutexLock lock(&mutex_);
  wake_ = true;
}

v1::EngineStats Leader::stats() const {
  const absl::MutexLock lock(&mutex_);
  v1::EngineStats stats = stats_;
  const size_t num_running = stats.num_running();
  stats.set_num_waiting(
      static_cast<uint32_t>(live_.size() > num_running ? live_.size() - num_running : 0));
  return stats;
}

uint64_t Leader::num_engine_calls() const {
  const absl::MutexLock lock(&mutex_);
  return num_engine_calls_;
}

bool Leader::HasWork() const {
  const absl::MutexLock lock(&mutex_);
  return !inbox_.empty() || !live_.empty();
}

bool Leader::WaitForWork(absl::Duration timeout) {
  const absl::MutexLock lock(&mutex_);
  ++num_engine_calls_;
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return wake_ || !inbox_.empty() || !live_.empty();
  };
  mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout);
  wake_ = false;
  ++num_engine_calls_;
  return !inbox_.empty() || !live_.empty();
}

void Leader::DrainInbox() {
  std::deque<InboxEvent> inbox;
  {
    const absl::MutexLock lock(&mutex_);
    inbox.swap(inbox_);
  }
  const auto forget = [this](RequestKey key) {
    const auto it = age_of_request_.find(key);
    if (it != age_of_request_.end()) Remove(sequences_.find(it->second));
  };
  for (InboxEvent& event : inbox) {
    if (auto* submit = std::get_if<SubmitEvent>(&event)) {
      Accept(std::move(*submit));
    } else if (const auto* cancel = std::get_if<CancelEvent>(&event)) {
      forget({cancel->client, cancel->request});
    } else if (const auto* gone = std::get_if<ClientGoneEvent>(&event)) {
      std::vector<RequestKey> keys;
      for (const auto& [key, age] : age_of_request_) {
        if (key.first == gone->client) keys.push_back(key);
      }
      for (const RequestKey& key : keys) forget(key);
    }
  }
}

void Leader::Accept(SubmitEvent event) {
  Sequence sequence;
  sequence.client = event.client;
  sequence.request = event.submit.request();
  const auto& prompt = event.submit.prompt_tokens();
  sequence.prompt.assign(prompt.begin(), prompt.end());
  const auto& generated = event.submit.generated_tokens();
  sequence.generated.assign(generated.begin(), generated.end());
  sequence.sampling = std::move(*event.submit.mutable_sampling());
  sequence.submitted = event.time;
  const Age age = {generated.empty() ? 1 : 0, next_arrival_++};
  age_of_request_[{sequence.client, sequence.request}] = age;
  sequences_.emplace(age, std::move(sequence));
}

void Leader::LeaveOwner(Sequence& sequence, bool owner_lost) {
  if (sequence.owner < 0) return;
  if (!owner_lost) pending_releases_[sequence.owner].push_back(sequence.stay_id);
  sequence.owner = -1;
  sequence.announced = false;
  sequence.num_computed = 0;
  sequence.num_reserved = 0;
  // Computed again with the prompt, unless they are sent already.
  sequence.prompt_logprobs.clear();
}

void Leader::Remove(std::map<Age, Sequence>::iterator it) {
  Sequence& sequence = it->second;
  LeaveOwner(sequence, /*owner_lost=*/false);
  const RequestKey key = {sequence.client, sequence.request};
  age_of_request_.erase(key);
  sequences_.erase(it);
  const absl::MutexLock lock(&mutex_);
  live_.erase(key);
}

absl::Status Leader::CheckResults(
    const OpenPlan& open, absl::Span<const v1::StepResult> results,
    absl::flat_hash_map<uint64_t, const v1::SequenceResult*>* result_of_stay) const {
  for (const v1::StepResult& result : results) {
    if (result.epoch() != open.plan.epoch() || result.step() != open.plan.step()) {
      return absl::InternalError(absl::StrFormat(
          "rank %d answers epoch %d step %d to the plan of epoch %d step %d", result.rank(),
          result.epoch(), result.step(), open.plan.epoch(), open.plan.step()));
    }
    for (const v1::SequenceResult& sequence_result : result.results()) {
      if (!open.age_of_stay.contains(sequence_result.sequence_id())) {
        return absl::InternalError(absl::StrFormat("rank %d answers for sequence %d, not planned",
                                                   result.rank(), sequence_result.sequence_id()));
      }
      if (!result_of_stay->emplace(sequence_result.sequence_id(), &sequence_result).second) {
        return absl::InternalError(
            absl::StrFormat("two results for sequence %d", sequence_result.sequence_id()));
      }
    }
  }
  for (const v1::SequenceSlice& slice : open.plan.slices()) {
    const auto it = result_of_stay->find(slice.sequence_id());
    const auto sequence = sequences_.find(open.age_of_stay.at(slice.sequence_id()));
    absl::Status status =
        CheckResult(slice, sequence == sequences_.end() ? nullptr : &sequence->second,
                    it == result_of_stay->end() ? nullptr : it->second);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Leader::CheckResult(const v1::SequenceSlice& slice, const Sequence* sequence,
                                 const v1::SequenceResult* result) const {
  if (result != nullptr && !result->error().empty()) return absl::OkStatus();
  const bool sampled = result != nullptr && result->sampled();
  if (sampled != slice.sample()) {
    return absl::InternalError(absl::StrFormat("sequence %d should %sgive a token",
                                               slice.sequence_id(), slice.sample() ? "" : "not "));
  }
  if (sampled && (result->token() < 0 || result->token() >= options_.vocab_size)) {
    return absl::InternalError(absl::StrFormat("sequence %d drew token %d of a vocabulary of %d",
                                               slice.sequence_id(), result->token(),
                                               options_.vocab_size));
  }
  if (sequence == nullptr) return absl::OkStatus();
  if (sequence->sampling.num_prompt_logprobs() >= 0 && sequence->generated.empty()) {
    // Row p gives the log-probability of the prompt token at p + 1.
    const int64_t start = slice.start();
    const int64_t last_row = static_cast<int64_t>(sequence->prompt.size()) - 1;
    const int64_t num_wanted =
        std::max<int64_t>(0, std::min(start + int64_t{slice.count()}, last_row) - start);
    const int64_t num_given = result == nullptr ? 0 : result->prompt_logprobs_size();
    if (num_given != num_wanted) {
      return absl::InternalError(
          absl::StrFormat("sequence %d gave %d prompt log-probabilities of %d", slice.sequence_id(),
                          num_given, num_wanted));
    }
  }
  return absl::OkStatus();
}

int Leader::NumHeldBlocks(const Sequence& sequence) const {
  return NumKvBlocks(std::max(sequence.num_computed, sequence.num_reserved),
                     options_.limits.kv_block_tokens);
}

bool Leader::EndsByLength(const Sequence& sequence, int num_more_tokens) const {
  return sequence.generated.size() + static_cast<size_t>(num_more_tokens) >=
             sequence.sampling.max_tokens() ||
         sequence.num_tokens() + num_more_tokens >= options_.max_context;
}

std::optional<v1::TokenEvent> Leader::CommitSlice(Sequence& sequence,
                                                  const v1::SequenceSlice& slice,
                                                  const v1::SequenceResult* result,
                                                  absl::Time now) {
  sequence.announced = true;
  sequence.num_computed = static_cast<int>(slice.start() + slice.count());
  num_prompt_tokens_ += slice.count() - (slice.has_token() || slice.follows_draw() ? 1 : 0);

  v1::TokenEvent event;
  event.set_request(sequence.request);
  event.set_position(static_cast<uint32_t>(sequence.generated.size()));
  if (result != nullptr && !result->error().empty()) {
    event.set_finish(v1::TokenEvent::ERROR);
    event.set_error(result->error());
    return event;
  }
  if (result != nullptr && sequence.generated.empty()) {
    sequence.prompt_logprobs.insert(sequence.prompt_logprobs.end(),
                                    result->prompt_logprobs().begin(),
                                    result->prompt_logprobs().end());
  }
  if (!slice.sample()) return std::nullopt;

  event.set_token(result->token());
  if (sequence.sampling.num_logprobs() >= 0) {
    event.set_logprob(result->logprob());
    *event.mutable_top_logprobs() = result->top_logprobs();
  }
  if (sequence.generated.empty()) {
    if (sequence.sampling.num_prompt_logprobs() >= 0) {
      event.add_prompt_logprobs();  // nothing comes before the first token
      for (v1::PromptLogprob& logprob : sequence.prompt_logprobs) {
        *event.add_prompt_logprobs() = std::move(logprob);
      }
      sequence.prompt_logprobs = {};
    }
    event.set_queue_seconds(absl::ToDoubleSeconds(sequence.admitted - sequence.submitted));
    event.set_prefill_seconds(absl::ToDoubleSeconds(now - sequence.admitted));
  }
  sequence.generated.push_back(result->token());
  ++num_generated_tokens_;
  const auto& stops = sequence.sampling.stop_token_ids();
  if (std::binary_search(stops.begin(), stops.end(), result->token())) {
    event.set_finish(v1::TokenEvent::STOP);
  } else if (EndsByLength(sequence, 0)) {
    event.set_finish(v1::TokenEvent::LENGTH);
  }
  return event;
}

absl::Status Leader::Commit(const v1::StepPlan& plan, absl::Span<const v1::StepResult> results,
                            absl::Time now) {
  if (plans_.empty() || plan.epoch() != plans_.front().plan.epoch() ||
      plan.step() != plans_.front().plan.step()) {
    return absl::InternalError(
        absl::StrFormat("epoch %d step %d is not the step that runs", plan.epoch(), plan.step()));
  }
  absl::flat_hash_map<uint64_t, const v1::SequenceResult*> result_of_stay;
  if (absl::Status status = CheckResults(plans_.front(), results, &result_of_stay); !status.ok()) {
    return status;
  }
  const OpenPlan open = std::move(plans_.front());
  plans_.pop_front();

  // What is added below belongs to a later plan.
  const absl::flat_hash_set<uint64_t> released(open.plan.released().begin(),
                                               open.plan.released().end());
  for (std::vector<uint64_t>& pending : pending_releases_) {
    std::erase_if(pending, [&](uint64_t stay_id) { return released.contains(stay_id); });
  }

  std::map<uint64_t, v1::StepEvents> events_of_client;
  for (const v1::SequenceSlice& slice : open.plan.slices()) {
    const auto it = sequences_.find(open.age_of_stay.at(slice.sequence_id()));
    if (it == sequences_.end()) continue;  // it ended in the step before
    const auto result = result_of_stay.find(slice.sequence_id());
    std::optional<v1::TokenEvent> event = CommitSlice(
        it->second, slice, result == result_of_stay.end() ? nullptr : result->second, now);
    if (!event.has_value()) continue;
    const bool finished = event->finish() != v1::TokenEvent::NONE;
    *events_of_client[it->second.client].add_events() = *std::move(event);
    if (finished) Remove(it);
  }
  RecordCall();
  for (auto& [client, events] : events_of_client) {
    events.set_epoch(open.plan.epoch());
    events.set_step(open.plan.step());
    sink_->OnEvents(client, std::move(events));
  }
  return absl::OkStatus();
}

void Leader::OnEpochChanged(uint64_t epoch, absl::Span<const int> lost_owners) {
  epoch_ = epoch;
  step_ = 0;
  plans_.clear();
  for (const int owner : lost_owners) {
    if (owner < 0 || owner >= options_.limits.num_owners) continue;
    pending_releases_[owner].clear();
    for (auto& [age, sequence] : sequences_) {
      if (sequence.owner == owner) LeaveOwner(sequence, /*owner_lost=*/true);
    }
  }
  RecordCall();
}

void Leader::RecordCall() {
  uint32_t num_running = 0;
  int64_t num_blocks = 0;
  for (const auto& [age, sequence] : sequences_) {
    if (sequence.owner < 0) continue;
    ++num_running;
    num_blocks += NumHeldBlocks(sequence);
  }
  const double num_all_blocks = static_cast<double>(options_.limits.kv_blocks_per_owner) *
                                static_cast<double>(options_.limits.num_owners);
  const absl::MutexLock lock(&mutex_);
  ++num_engine_calls_;
  stats_.set_epoch(epoch_);
  stats_.set_step(step_);
  stats_.set_num_running(num_running);
  stats_.set_kv_usage(static_cast<double>(num_blocks) / num_all_blocks);
  stats_.set_num_preemptions(num_preemptions_);
  stats_.set_num_prompt_tokens(num_prompt_tokens_);
  stats_.set_num_generated_tokens(num_generated_tokens_);
}

}  // namespace moe::engine
