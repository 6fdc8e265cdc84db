#include "controller/coordinator/placement.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace moe::coordinator {

absl::StatusOr<Placement> PlaceInBlocks(int num_experts, int num_slots) {
  if (num_slots < 1 || num_slots > num_experts) {
    return absl::InvalidArgumentError(absl::StrCat("expert-parallel width ", num_slots,
                                                   " is not in 1 to ", num_experts,
                                                   ", the model's number of experts"));
  }
  Placement placement;
  placement.num_slots = num_slots;
  placement.slots_of_expert.resize(static_cast<size_t>(num_experts));
  for (int expert = 0; expert < num_experts; ++expert) {
    const int64_t slot = static_cast<int64_t>(expert) * num_slots / num_experts;
    placement.slots_of_expert[static_cast<size_t>(expert)] = {static_cast<int>(slot)};
  }
  return placement;
}

absl::Status CheckPlacement(const Placement& placement) {
  for (size_t expert = 0; expert < placement.slots_of_expert.size(); ++expert) {
    std::vector<int> slots = placement.slots_of_expert[expert];
    if (slots.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " has no slot"));
    }
    std::sort(slots.begin(), slots.end());
    if (slots.front() < 0 || slots.back() >= placement.num_slots) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", expert, " is in a slot outside 0 to ", placement.num_slots - 1));
    }
    if (std::adjacent_find(slots.begin(), slots.end()) != slots.end()) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " names one slot twice"));
    }
  }
  return absl::OkStatus();
}

std::vector<int> ExpertsOfSlot(const Placement& placement, int slot) {
  std::vector<int> experts;
  for (int expert = 0; expert < placement.num_experts(); ++expert) {
    const std::vector<int>& slots = placement.slots_of_expert[static_cast<size_t>(expert)];
    if (std::find(slots.begin(), slots.end(), slot) != slots.end()) experts.push_back(expert);
  }
  return experts;
}

}  // namespace moe::coordinator
