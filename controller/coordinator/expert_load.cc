#include "controller/coordinator/expert_load.h"

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace moe::coordinator {

ExpertLoad::ExpertLoad(const Placement& placement, int num_layers)
    : num_layers_(num_layers), num_experts_(placement.num_experts()) {
  slots_.resize(static_cast<size_t>(placement.num_slots));
  for (int slot = 0; slot < placement.num_slots; ++slot) {
    slots_[static_cast<size_t>(slot)].experts = ExpertsOfSlot(placement, slot);
  }
  totals_.resize(static_cast<size_t>(num_layers_) * static_cast<size_t>(num_experts_));
}

absl::Status ExpertLoad::Update(int slot, std::string_view identity,
                                absl::Span<const uint64_t> expert_tokens) {
  if (slot < 0 || static_cast<size_t>(slot) >= slots_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("no slot ", slot));
  }
  SlotCounters& counters = slots_[static_cast<size_t>(slot)];
  const size_t num_local = counters.experts.size();
  if (expert_tokens.size() != num_local * static_cast<size_t>(num_layers_)) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", slot, " counts ", expert_tokens.size(),
                                                   " (layer, expert) pairs but holds ",
                                                   num_local * static_cast<size_t>(num_layers_)));
  }
  if (counters.identity != identity) {
    counters.identity = std::string(identity);
    counters.last.assign(expert_tokens.size(), 0);
  }
  for (size_t i = 0; i < expert_tokens.size(); ++i) {
    // A counter never falls within one process; one that does is taken as begun again.
    const uint64_t last = expert_tokens[i] >= counters.last[i] ? counters.last[i] : 0;
    const size_t layer = i / num_local;
    const auto expert = static_cast<size_t>(counters.experts[i % num_local]);
    totals_[layer * static_cast<size_t>(num_experts_) + expert] += expert_tokens[i] - last;
    counters.last[i] = expert_tokens[i];
  }
  return absl::OkStatus();
}

}  // namespace moe::coordinator
