#include "worker/engine/owner.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "worker/engine/sampler.h"

namespace moe::engine {
namespace {

template <typename Message>
void FillTop(const Logprobs& logprobs, Message* message) {
  message->set_logprob(logprobs.chosen);
  for (const auto& [token, logprob] : logprobs.top) {
    v1::TokenLogprob* top = message->add_top_logprobs();
    top->set_token(token);
    top->set_logprob(logprob);
  }
}

}  // namespace

absl::StatusOr<model::StepOutline> OutlineOf(const v1::StepPlan& plan, int num_ranks,
                                             bool replicated) {
  model::StepOutline outline;
  outline.step = plan.step();
  outline.num_rows.resize(num_ranks);
  outline.num_keys.resize(num_ranks);
  for (const v1::SequenceSlice& slice : plan.slices()) {
    if (slice.owner() >= static_cast<uint32_t>(num_ranks)) {
      return absl::InternalError(absl::StrFormat("step %d names owner %d of %d ranks", plan.step(),
                                                 slice.owner(), num_ranks));
    }
    const int64_t end = int64_t{slice.start()} + slice.count();
    outline.num_rows[slice.owner()] += static_cast<int>(slice.count());
    outline.num_keys[slice.owner()] += end;
    outline.longest = std::max(outline.longest, static_cast<int>(end));
    outline.is_decode = outline.is_decode && slice.count() == 1;
  }
  if (replicated) {
    const auto give_all = [](auto* values, auto zero) {
      std::fill(values->begin(), values->end(),
                std::accumulate(values->begin(), values->end(), zero));
    };
    give_all(&outline.num_rows, 0);
    give_all(&outline.num_keys, int64_t{0});
  }
  return outline;
}

Owner::Owner(const OwnerOptions& options, model::Decoder* decoder, KvBlockPool* blocks,
             const kernels::Context& context, StepTimes* times)
    : options_(options), decoder_(decoder), blocks_(blocks), context_(context), times_(times) {}

void Owner::DropAll() {
  sequences_.clear();
  blocks_->ReleaseAll();
}

void Owner::ApplySequences(const v1::StepPlan& plan) {
  for (const uint64_t id : plan.released()) {
    sequences_.erase(id);
    blocks_->Release(id);
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    if (!IsMine(added.owner())) continue;
    // Sent again when the plan that brought it did not commit, or after its KV was lost.
    blocks_->Release(added.sequence_id());
    Sequence& sequence = sequences_[added.sequence_id()];
    sequence.tokens.assign(added.prompt_tokens().begin(), added.prompt_tokens().end());
    sequence.tokens.insert(sequence.tokens.end(), added.generated_tokens().begin(),
                           added.generated_tokens().end());
    sequence.num_prompt_tokens = added.prompt_tokens_size();
    sequence.num_announced_tokens = sequence.tokens.size();
    sequence.drawn.reset();
    sequence.sampling = added.sampling();
  }
}

absl::Status Owner::TakeTokens(const v1::SequenceSlice& slice, Sequence* sequence) {
  std::vector<int32_t>& tokens = sequence->tokens;
  const size_t start = slice.start();
  if (slice.follows_draw()) {
    if (slice.count() != 1 || start != tokens.size() || !sequence->drawn.has_value()) {
      return absl::InternalError(absl::StrFormat(
          "position %d follows no draw: the sequence has %d tokens", start, tokens.size()));
    }
    tokens.push_back(*sequence->drawn);
  } else if (slice.has_token() && start <= tokens.size()) {
    tokens.resize(start);
    tokens.push_back(slice.token());
  } else if (start + slice.count() <= sequence->num_announced_tokens) {
    // A step that did not commit may have drawn more: that is drawn again.
    tokens.resize(sequence->num_announced_tokens);
  }
  sequence->drawn.reset();
  return absl::OkStatus();
}

absl::Status Owner::GatherRows(const v1::StepPlan& plan) {
  my_slices_.clear();
  rows_.clear();
  tokens_.clear();
  logit_rows_.clear();
  for (const v1::SequenceSlice& slice : plan.slices()) {
    if (!IsMine(slice.owner())) continue;
    const auto it = sequences_.find(slice.sequence_id());
    if (it == sequences_.end()) {
      return absl::InternalError(
          absl::StrFormat("step %d names sequence %d, which this rank does not know", plan.step(),
                          slice.sequence_id()));
    }
    Sequence& sequence = it->second;
    if (absl::Status status = TakeTokens(slice, &sequence); !status.ok()) {
      return absl::InternalError(absl::StrFormat("step %d, sequence %d: %s", plan.step(),
                                                 slice.sequence_id(), status.message()));
    }
    const uint64_t end = uint64_t{slice.start()} + slice.count();
    if (slice.count() == 0 || end > sequence.tokens.size()) {
      return absl::InternalError(absl::StrFormat(
          "step %d computes positions %d to %d of sequence %d, which has %d tokens", plan.step(),
          slice.start(), end, slice.sequence_id(), sequence.tokens.size()));
    }
    if (absl::Status status = blocks_->Reserve(slice.sequence_id(), static_cast<int>(end));
        !status.ok()) {
      return absl::InternalError(
          absl::StrFormat("step %d overdraws the KV cache: %s", plan.step(), status.message()));
    }
    const int first_row = static_cast<int>(tokens_.size());
    const int slice_idx = static_cast<int>(my_slices_.size());
    const int start = static_cast<int>(slice.start());
    my_slices_.push_back(&slice);
    rows_.push_back(
        {.first_row = first_row, .start = start, .count = static_cast<int>(slice.count())});
    tokens_.insert(tokens_.end(), sequence.tokens.begin() + start,
                   sequence.tokens.begin() + static_cast<int64_t>(end));
    if (!options_.samples) continue;
    if (sequence.sampling.num_prompt_logprobs() >= 0) {
      const int last = std::min<int>(static_cast<int>(end), sequence.num_prompt_tokens - 1);
      for (int position = start; position < last; ++position) {
        logit_rows_.push_back({.row = first_row + position - start,
                               .slice_idx = slice_idx,
                               .prompt_token = sequence.tokens[position + 1]});
      }
    }
    if (slice.sample()) {
      if (end != sequence.tokens.size()) {
        return absl::InternalError(
            absl::StrFormat("step %d draws in the middle of sequence %d", plan.step(), it->first));
      }
      logit_rows_.push_back({.row = static_cast<int>(tokens_.size()) - 1,
                             .slice_idx = slice_idx,
                             .prompt_token = -1});
    }
  }
  // Reserve may move other sequences' tables, so they are looked up last.
  for (size_t i = 0; i < rows_.size(); ++i) {
    rows_[i].block_table = blocks_->block_table(my_slices_[i]->sequence_id()).data();
  }
  return absl::OkStatus();
}

model::LogitRequest Owner::RequestFor(const LogitRow& logit_row) const {
  using Want = model::LogitRequest::Want;
  const Sequence& sequence = sequences_.at(my_slices_[logit_row.slice_idx]->sequence_id());
  model::LogitRequest request = {.row = logit_row.row};
  if (logit_row.prompt_token >= 0) {
    request.want = Want::kLogprobs;
    request.token = logit_row.prompt_token;
    request.num_top = sequence.sampling.num_prompt_logprobs();
    return request;
  }
  const auto draw =
      AsPlainDraw(sequence.sampling, sequence.tokens.size() - sequence.num_prompt_tokens,
                  decoder_->config().vocab_size);
  if (!draw.has_value()) return request;
  request.want = Want::kDraw;
  request.uniform = draw->uniform;
  request.temperature = draw->temperature;
  request.num_top = sequence.sampling.num_logprobs();
  return request;
}

absl::Status Owner::TakeDrawn(const LogitRow& logit_row, const model::LogitResult& drawn,
                              v1::SequenceResult* result) {
  if (!drawn.finite) return absl::InvalidArgumentError("logits are not finite");
  const Logprobs logprobs = {.chosen = drawn.logprob, .top = drawn.top};
  if (logit_row.prompt_token >= 0) {
    FillTop(logprobs, result->add_prompt_logprobs());
    return absl::OkStatus();
  }
  const Sequence& sequence = sequences_.at(my_slices_[logit_row.slice_idx]->sequence_id());
  result->set_sampled(true);
  result->set_token(drawn.token);
  if (sequence.sampling.num_logprobs() >= 0) FillTop(logprobs, result);
  return absl::OkStatus();
}

absl::Status Owner::DrawRow(const LogitRow& logit_row, absl::Span<float> logits,
                            v1::SequenceResult* result) {
  const Sequence& sequence = sequences_.at(my_slices_[logit_row.slice_idx]->sequence_id());
  if (logit_row.prompt_token >= 0) {
    auto logprobs = ComputeLogprobs(context_, logits, logit_row.prompt_token,
                                    sequence.sampling.num_prompt_logprobs());
    if (!logprobs.ok()) return logprobs.status();
    FillTop(*logprobs, result->add_prompt_logprobs());
    return absl::OkStatus();
  }
  const absl::Span<const int32_t> tokens = sequence.tokens;
  auto sample =
      SampleToken(context_, logits, sequence.sampling, tokens.first(sequence.num_prompt_tokens),
                  tokens.subspan(sequence.num_prompt_tokens));
  if (!sample.ok()) return sample.status();
  result->set_sampled(true);
  result->set_token(sample->token);
  if (sequence.sampling.num_logprobs() >= 0) FillTop(sample->logprobs, result);
  return absl::OkStatus();
}

absl::Status Owner::Draw(v1::StepResult* result) {
  requests_.clear();
  for (const LogitRow& logit_row : logit_rows_) requests_.push_back(RequestFor(logit_row));
  return decoder_->Finish(requests_, [&](size_t i, const model::LogitResult& answer) {
    const LogitRow& logit_row = logit_rows_[i];
    v1::SequenceResult* sequence_result = result->mutable_results(logit_row.slice_idx);
    if (!sequence_result->error().empty()) return;
    model::LapTimer timer(times_);
    const absl::Status status = answer.logits.empty()
                                    ? TakeDrawn(logit_row, answer, sequence_result)
                                    : DrawRow(logit_row, answer.logits, sequence_result);
    if (!status.ok()) sequence_result->set_error(std::string(status.message()));
    timer.Lap(StepTimes::kSampling);
  });
}

absl::Status Owner::Start(const v1::StepPlan& plan, model::LayerLoop* layers) {
  has_rows_ = false;
  result_.Clear();
  result_.set_epoch(plan.epoch());
  result_.set_step(plan.step());
  result_.set_rank(options_.rank);
  ApplySequences(plan);
  if (absl::Status status = GatherRows(plan); !status.ok()) return status;
  const auto outline = OutlineOf(plan, options_.num_ranks, options_.replicated);
  if (!outline.ok()) return outline.status();
  if (tokens_.empty() && !layers->collective()) return absl::OkStatus();
  // A step of no rank has no layers either: it only brings or releases sequences.
  if (plan.slices().empty()) return absl::OkStatus();
  if (absl::Status status = decoder_->Begin(rows_, tokens_); !status.ok()) {
    return absl::IsInvalidArgument(status) ? absl::InternalError(status.message()) : status;
  }
  has_rows_ = true;
  return layers->Run(*outline);
}

absl::StatusOr<v1::StepResult> Owner::Finish() {
  v1::StepResult result = std::move(result_);
  if (!std::exchange(has_rows_, false)) return result;
  for (const v1::SequenceSlice* slice : my_slices_) {
    if (options_.samples) result.add_results()->set_sequence_id(slice->sequence_id());
  }
  if (absl::Status status = Draw(&result); !status.ok()) return status;
  // Only now is it known that the rows were computed.
  for (size_t i = 0; i < my_slices_.size(); ++i) {
    const v1::SequenceSlice& slice = *my_slices_[i];
    Sequence& sequence = sequences_.at(slice.sequence_id());
    blocks_->Commit(
        slice.sequence_id(),
        absl::MakeConstSpan(sequence.tokens).first(size_t{slice.start()} + slice.count()));
    // A sequence that could not be drawn from ends; what a plan ahead computes for it is for
    // nothing.
    if (slice.sample() && options_.samples) {
      const v1::SequenceResult& drawn = result.results(static_cast<int>(i));
      sequence.drawn = drawn.sampled() ? drawn.token() : sequence.tokens.back();
    }
  }
  return result;
}

absl::StatusOr<v1::StepResult> Owner::RunStep(const v1::StepPlan& plan, model::LayerLoop* layers) {
  if (absl::Status status = Start(plan, layers); !status.ok()) return status;
  return Finish();
}

}  // namespace moe::engine
