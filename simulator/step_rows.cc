#include "simulator/step_rows.h"

#include <algorithm>
#include <cstddef>

namespace moe::simulator {

planner::StepRows StepRowCounter::Count(const engine::v1::StepPlan& plan) {
  std::fill(owners_.begin(), owners_.end(), Owner());
  decode_rows_ = 0;
  planner::StepRows step;
  for (const engine::v1::SequenceSlice& slice : plan.slices()) {
    Owner& owner = owners_[static_cast<size_t>(slice.owner())];
    const double start = slice.start();
    const double count = slice.count();
    owner.rows += count;
    owner.attended += count * start + count * (count + 1) / 2;
    owner.kv_reads += start + count;
    owner.draws += slice.sample() ? 1 : 0;
    step.rows += count;
    decode_rows_ += slice.has_token() ? count : 0;
    step.prefill = step.prefill || !slice.has_token();
  }
  double attended = 0;
  step.owners = 0;
  for (const Owner& owner : owners_) {
    step.owners += owner.rows > 0 ? 1 : 0;
    step.rows_per_owner = std::max(step.rows_per_owner, owner.rows);
    step.kv_reads = std::max(step.kv_reads, owner.kv_reads);
    step.logit_rows = std::max(step.logit_rows, owner.draws);
    attended = std::max(attended, owner.attended);
  }
  step.owners = std::max(step.owners, 1.0);
  if (step.rows_per_owner > 0) step.context = attended / step.rows_per_owner;
  return step;
}

}  // namespace moe::simulator
