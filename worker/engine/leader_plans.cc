// The leader's plans: the next step from all that is known, and the one after it before its results
// are there. Requests and results are in leader.cc.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "worker/engine/leader.h"

namespace moe::engine {

std::optional<v1::StepPlan> Leader::NextPlan(absl::Time now) {
  plans_.clear();
  DrainInbox();

  SchedulerState state;
  std::vector<std::map<Age, Sequence>::iterator> iterators;  // by the scheduler's id
  for (auto it = sequences_.begin(); it != sequences_.end(); ++it) {
    const Sequence& sequence = it->second;
    (sequence.owner < 0 ? state.waiting : state.running)
        .push_back({.id = iterators.size(),
                    .owner = sequence.owner,
                    .num_tokens = sequence.num_tokens(),
                    .num_computed = sequence.num_computed,
                    .num_reserved = sequence.num_reserved});
    iterators.push_back(it);
  }
  const ScheduleDecision decision = Schedule(state, options_.limits);

  for (const uint64_t id : decision.preempted) {
    LeaveOwner(iterators[id]->second, /*owner_lost=*/false);
    ++num_preemptions_;
  }
  for (const Admission& admission : decision.admitted) {
    Sequence& sequence = iterators[admission.id]->second;
    sequence.owner = admission.owner;
    sequence.stay_id = (epoch_ << 32) + next_stay_++;
    sequence.admitted = std::min(sequence.admitted, now);
  }
  if (!decision.slices.empty()) {
    OpenNext();
    for (const ScheduledSlice& slice : decision.slices) {
      AddSlice(slice, iterators[slice.id]->first, iterators[slice.id]->second);
    }
  }
  RecordCall();
  if (plans_.empty()) return std::nullopt;
  return plans_.back().plan;
}

std::vector<std::pair<ScheduledSlice, Leader::Age>> Leader::SlicesAhead() const {
  {
    const absl::MutexLock lock(&mutex_);
    if (!inbox_.empty()) return {};
  }
  if (plans_.size() != 1) return {};
  const OpenPlan& open = plans_.front();
  const SchedulerLimits& limits = options_.limits;
  std::vector<std::pair<ScheduledSlice, Age>> slices;
  int num_planned = 0;  // sequences of the open plan that have not ended since it was made
  for (const v1::SequenceSlice& slice : open.plan.slices()) {
    if (!slice.sample()) return {};
    const Age& age = open.age_of_stay.at(slice.sequence_id());
    const auto it = sequences_.find(age);
    if (it == sequences_.end()) continue;
    ++num_planned;
    if (EndsByLength(it->second, 1)) continue;
    slices.push_back({{.id = slice.sequence_id(),
                       .owner = static_cast<int>(slice.owner()),
                       .start = static_cast<int>(slice.start() + slice.count()),
                       .count = 1,
                       .sample = true},
                      age});
  }
  // Of those that run, all go on; of those that wait, none could join.
  int num_running = 0;
  std::vector<int> num_blocks(static_cast<size_t>(limits.num_owners));
  for (const auto& [age, sequence] : sequences_) {
    if (sequence.owner < 0) continue;
    ++num_running;
    num_blocks[sequence.owner] += NumHeldBlocks(sequence);
  }
  if (num_running != num_planned) return {};
  const bool all_go_on = static_cast<int>(slices.size()) == num_planned;
  const bool is_full = num_running >= std::min(limits.max_sequences, limits.max_step_tokens);
  if (sequences_.size() > static_cast<size_t>(num_running) && !(is_full && all_go_on)) return {};
  for (const auto& [slice, age] : slices) {
    num_blocks[slice.owner] +=
        NumKvBlocks(slice.start + 1, limits.kv_block_tokens) - NumHeldBlocks(sequences_.at(age));
    if (num_blocks[slice.owner] > limits.kv_blocks_per_owner) return {};
  }
  return slices;
}

std::optional<v1::StepPlan> Leader::PlanAhead() {
  const std::vector<std::pair<ScheduledSlice, Age>> slices = SlicesAhead();
  if (slices.empty()) return std::nullopt;
  OpenNext();
  for (const auto& [slice, age] : slices) AddSlice(slice, age, sequences_.at(age));
  RecordCall();
  return plans_.back().plan;
}

Leader::OpenPlan& Leader::OpenNext() {
  OpenPlan& open = plans_.emplace_back();
  open.plan.set_epoch(epoch_);
  open.plan.set_step(++step_);
  return open;
}

void Leader::AddSlice(const ScheduledSlice& scheduled, const Age& age, Sequence& sequence) {
  OpenPlan& open = plans_.back();
  v1::StepPlan& plan = open.plan;
  const bool first_of_owner =
      plan.slices().empty() ||
      plan.slices(plan.slices_size() - 1).owner() != static_cast<uint32_t>(scheduled.owner);
  if (first_of_owner) {
    for (const uint64_t stay_id : pending_releases_[scheduled.owner]) plan.add_released(stay_id);
  }
  // A plan ahead follows one that announces it.
  if (!sequence.announced && plans_.size() == 1) {
    v1::NewSequence* added = plan.add_new_sequences();
    added->set_sequence_id(sequence.stay_id);
    added->set_owner(static_cast<uint32_t>(scheduled.owner));
    added->mutable_prompt_tokens()->Assign(sequence.prompt.begin(), sequence.prompt.end());
    added->mutable_generated_tokens()->Assign(sequence.generated.begin(), sequence.generated.end());
    *added->mutable_sampling() = sequence.sampling;
    if (!sequence.generated.empty()) added->mutable_sampling()->set_num_prompt_logprobs(-1);
    sequence.num_announced_tokens = sequence.num_tokens();
  }
  v1::SequenceSlice* slice = plan.add_slices();
  slice->set_sequence_id(sequence.stay_id);
  slice->set_owner(static_cast<uint32_t>(scheduled.owner));
  slice->set_start(static_cast<uint32_t>(scheduled.start));
  slice->set_count(static_cast<uint32_t>(scheduled.count));
  slice->set_sample(scheduled.sample);
  if (scheduled.start >= sequence.num_tokens()) {
    slice->set_follows_draw(true);
  } else if (scheduled.start >= sequence.num_announced_tokens) {
    slice->set_token(sequence.generated[scheduled.start - sequence.prompt.size()]);
  }
  sequence.num_reserved = std::max(sequence.num_reserved, scheduled.start + scheduled.count);
  open.age_of_stay[sequence.stay_id] = age;
}

}  // namespace moe::engine
