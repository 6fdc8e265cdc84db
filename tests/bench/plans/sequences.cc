#include "tests/bench/plans/sequences.h"

namespace moe::bench {

int32_t Sequences::Token(uint64_t id, int position) const {
  return static_cast<int32_t>((id * 7919 + uint64_t(position) * 104729 + 13) % vocab_size_);
}

engine::v1::SequenceSlice* Sequences::AddSlice(uint64_t id, int start, int count,
                                               engine::v1::StepPlan* plan) const {
  engine::v1::SequenceSlice* slice = plan->add_slices();
  slice->set_sequence_id(id);
  slice->set_owner(Owner(id));
  slice->set_start(static_cast<uint32_t>(start));
  slice->set_count(static_cast<uint32_t>(count));
  slice->set_sample(true);
  return slice;
}

engine::v1::StepPlan Sequences::Add(int count, int length) {
  engine::v1::StepPlan plan;
  for (int i = 0; i < count; ++i) {
    const uint64_t id = lengths_.size();
    engine::v1::NewSequence* added = plan.add_new_sequences();
    added->set_sequence_id(id);
    added->set_owner(Owner(id));
    engine::v1::SamplingParams* greedy = added->mutable_sampling();
    greedy->set_top_p(1);
    greedy->set_repetition_penalty(1);
    greedy->set_num_logprobs(-1);
    greedy->set_num_prompt_logprobs(-1);
    for (int t = 0; t < length; ++t) added->add_prompt_tokens(Token(id, t));
    AddSlice(id, 0, length, &plan);
    lengths_.push_back(length);
  }
  return plan;
}

engine::v1::StepPlan Sequences::Decode(int count) {
  engine::v1::StepPlan plan;
  for (uint64_t id = 0; id < static_cast<uint64_t>(count); ++id) {
    AddSlice(id, lengths_[id], 1, &plan)->set_token(Token(id, lengths_[id]));
    ++lengths_[id];
  }
  return plan;
}

}  // namespace moe::bench
