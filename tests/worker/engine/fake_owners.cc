#include "tests/worker/engine/fake_owners.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace moe::engine {

int32_t FakeNextToken(absl::Span<const int32_t> tokens, int vocab_size) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211u;
    hash ^= hash >> 29;
  }
  return static_cast<int32_t>(hash % static_cast<uint64_t>(vocab_size));
}

std::vector<int32_t> FakeGeneration(std::vector<int32_t> prompt, int num_tokens, int vocab_size) {
  const size_t num_prompt = prompt.size();
  for (int i = 0; i < num_tokens; ++i) prompt.push_back(FakeNextToken(prompt, vocab_size));
  return {prompt.begin() + static_cast<std::ptrdiff_t>(num_prompt), prompt.end()};
}

FakeOwners::FakeOwners(const SchedulerLimits& limits, int vocab_size)
    : limits_(limits), vocab_size_(vocab_size), owners_(static_cast<size_t>(limits.num_owners)) {
  for (int owner = 0; owner < limits.num_owners; ++owner) Restart(owner);
}

void FakeOwners::Restart(int owner) {
  owners_[owner].sequences.clear();
  owners_[owner].blocks =
      std::make_unique<KvBlockPool>(limits_.kv_blocks_per_owner, limits_.kv_block_tokens);
}

int FakeOwners::num_sequences(int owner) const {
  return static_cast<int>(owners_[owner].sequences.size());
}

absl::Status FakeOwners::RunSlice(const v1::SequenceSlice& slice, Owner& owner,
                                  v1::SequenceResult* result) {
  const auto it = owner.sequences.find(slice.sequence_id());
  if (it == owner.sequences.end()) return absl::InternalError("a slice of an unknown sequence");
  Sequence& sequence = it->second;
  const size_t start = slice.start();
  const size_t end = start + slice.count();
  const std::optional<int32_t> drawn = std::exchange(sequence.drawn, std::nullopt);
  if (slice.follows_draw()) {
    if (slice.has_token() || slice.count() != 1 || !drawn.has_value() ||
        start != sequence.tokens.size()) {
      return absl::InternalError("a slice that follows no draw");
    }
    sequence.tokens.push_back(*drawn);
  } else if (slice.has_token()) {
    if (start > sequence.tokens.size()) return absl::InternalError("a gap before the token");
    sequence.tokens.resize(start);
    sequence.tokens.push_back(slice.token());
  } else if (end <= sequence.num_announced) {
    // What was drawn after them is drawn again.
    sequence.tokens.resize(sequence.num_announced);
  }
  if (slice.count() == 0 || end > sequence.tokens.size()) {
    return absl::InternalError("a slice past the known tokens");
  }
  // More may be computed here: the step before may not have committed.
  if (start > sequence.num_computed) return absl::InternalError("rows before start are missing");
  if (absl::Status status = owner.blocks->Reserve(slice.sequence_id(), static_cast<int>(end));
      !status.ok()) {
    return absl::InternalError(status.message());
  }
  sequence.num_computed = end;
  result->set_sequence_id(slice.sequence_id());
  if (sequence.num_prompt_logprobs >= 0) {
    for (size_t row = start; row < end && row + 1 < sequence.num_prompt; ++row) {
      result->add_prompt_logprobs()->set_logprob(static_cast<float>(row + 1));
    }
  }
  if (slice.sample()) {
    if (end != sequence.tokens.size()) return absl::InternalError("a draw before the end");
    result->set_sampled(true);
    result->set_token(FakeNextToken(sequence.tokens, vocab_size_));
    sequence.drawn = result->token();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::StepResult>> FakeOwners::Run(const v1::StepPlan& plan) {
  std::map<uint32_t, v1::StepResult> results;
  for (const v1::SequenceSlice& slice : plan.slices()) {
    v1::StepResult& result = results[slice.owner()];
    result.set_epoch(plan.epoch());
    result.set_step(plan.step());
    result.set_rank(slice.owner());
  }
  // Only owners with slices see the plan.
  for (const auto& [rank, result] : results) {
    if (rank >= owners_.size()) return absl::InternalError("a slice of an owner that is not there");
    for (const uint64_t id : plan.released()) {
      owners_[rank].sequences.erase(id);
      owners_[rank].blocks->Release(id);
    }
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    if (!results.contains(added.owner())) return absl::InternalError("a sequence without rows");
    Owner& owner = owners_[added.owner()];
    owner.blocks->Release(added.sequence_id());
    Sequence& sequence = owner.sequences[added.sequence_id()];
    sequence = {};
    sequence.tokens.assign(added.prompt_tokens().begin(), added.prompt_tokens().end());
    sequence.tokens.insert(sequence.tokens.end(), added.generated_tokens().begin(),
                           added.generated_tokens().end());
    sequence.num_prompt = static_cast<size_t>(added.prompt_tokens_size());
    sequence.num_announced = sequence.tokens.size();
    sequence.num_prompt_logprobs = added.sampling().num_prompt_logprobs();
  }
  for (const v1::SequenceSlice& slice : plan.slices()) {
    absl::Status status =
        RunSlice(slice, owners_[slice.owner()], results[slice.owner()].add_results());
    if (!status.ok()) {
      return absl::InternalError(absl::StrFormat("epoch %d step %d sequence %d: %s", plan.epoch(),
                                                 plan.step(), slice.sequence_id(),
                                                 status.message()));
    }
  }
  std::vector<v1::StepResult> in_order;
  for (auto& [rank, result] : results) in_order.push_back(std::move(result));
  return in_order;
}

}  // namespace moe::engine
