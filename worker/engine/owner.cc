#include "worker/engine/owner.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_format.h"
#include "worker/engine/sampler.h"

namespace moe::engine {
namespace {

// Adds the time since the last lap to a part.
class LapTimer {
 public:
  explicit LapTimer(StepTimes* times) : times_(times), last_(std::chrono::steady_clock::now()) {}
  void Lap(StepTimes::Part part) {
    const auto now = std::chrono::steady_clock::now();
    times_->Add(part, std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count());
    last_ = now;
  }

 private:
  StepTimes* times_;
  std::chrono::steady_clock::time_point last_;
};

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

std::string_view StepTimes::PartName(Part part) {
  switch (part) {
    case kAttention:
      return "attention";
    case kRoute:
      return "route";
    case kDispatch:
      return "dispatch";
    case kExperts:
      return "experts";
    case kCombine:
      return "combine";
    case kLogits:
      return "logits";
    case kSampling:
      return "sampling";
    case kNumParts:
      break;
  }
  return "unknown";
}

double StepTimes::total_seconds() const {
  double total = 0;
  for (int part = 0; part < kNumParts; ++part) total += seconds(static_cast<Part>(part));
  return total;
}

Owner::Owner(const OwnerOptions& options, model::DecoderModel* model, KvBlockPool* blocks,
             const kernels::Context& context, StepTimes* times)
    : options_(options), model_(model), blocks_(blocks), context_(context), times_(times) {}

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
    sequence.sampling = added.sampling();
  }
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
    if (slice.has_token() && slice.start() <= sequence.tokens.size()) {
      sequence.tokens.resize(slice.start());
      sequence.tokens.push_back(slice.token());
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

absl::Status Owner::RunLayers(uint64_t step, exchange::Exchange* exchange) {
  LapTimer timer(times_);
  for (int layer = 0; layer < model_->config().num_layers; ++layer) {
    model_->Attention(layer);
    timer.Lap(StepTimes::kAttention);
    model_->Route(layer, exchange->rows());
    timer.Lap(StepTimes::kRoute);
    if (absl::Status status =
            exchange->Dispatch(step, layer, model_->num_rows(), model_->expert_ids());
        !status.ok()) {
      return status;
    }
    timer.Lap(StepTimes::kDispatch);
    const auto outputs = exchange->Combine();
    if (!outputs.ok()) return outputs.status();
    timer.Lap(StepTimes::kExperts);
    model_->Combine(*outputs);
    timer.Lap(StepTimes::kCombine);
  }
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

void Owner::Draw(v1::StepResult* result) {
  const size_t vocab_size = model_->config().vocab_size;
  std::vector<int> row_idxs;
  for (size_t first = 0; first < logit_rows_.size(); first += model::DecoderModel::kMaxLogitRows) {
    const size_t last =
        std::min(logit_rows_.size(), first + size_t{model::DecoderModel::kMaxLogitRows});
    LapTimer timer(times_);
    row_idxs.clear();
    for (size_t i = first; i < last; ++i) row_idxs.push_back(logit_rows_[i].row);
    const absl::Span<float> logits = model_->Logits(row_idxs);
    timer.Lap(StepTimes::kLogits);
    for (size_t i = first; i < last; ++i) {
      v1::SequenceResult* sequence_result = result->mutable_results(logit_rows_[i].slice_idx);
      if (!sequence_result->error().empty()) continue;
      const absl::Status status = DrawRow(
          logit_rows_[i], logits.subspan((i - first) * vocab_size, vocab_size), sequence_result);
      if (!status.ok()) sequence_result->set_error(std::string(status.message()));
    }
    timer.Lap(StepTimes::kSampling);
  }
}

absl::StatusOr<v1::StepResult> Owner::RunStep(const v1::StepPlan& plan,
                                              exchange::Exchange* exchange) {
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  result.set_rank(options_.rank);
  ApplySequences(plan);
  if (absl::Status status = GatherRows(plan); !status.ok()) return status;
  if (tokens_.empty()) return result;
  if (absl::Status status = model_->Begin(rows_, tokens_); !status.ok()) {
    return absl::InternalError(status.message());
  }
  if (absl::Status status = RunLayers(plan.step(), exchange); !status.ok()) return status;
  for (const v1::SequenceSlice* slice : my_slices_) {
    const Sequence& sequence = sequences_.at(slice->sequence_id());
    blocks_->Commit(
        slice->sequence_id(),
        absl::MakeConstSpan(sequence.tokens).first(size_t{slice->start()} + slice->count()));
    if (options_.samples) result.add_results()->set_sequence_id(slice->sequence_id());
  }
  Draw(&result);
  return result;
}

}  // namespace moe::engine
