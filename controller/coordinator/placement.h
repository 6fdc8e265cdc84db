// Which slots hold which experts.
//
// Pure. Tested by tests/controller/coordinator/placement_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_PLACEMENT_H_
#define MOE_CONTROLLER_COORDINATOR_PLACEMENT_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::coordinator {

// slots_of_expert[e]: the slots with a copy of expert e of every layer; the first one is used, the
// others are spare.
struct Placement {
  int num_slots = 0;
  std::vector<std::vector<int>> slots_of_expert;

  int num_experts() const { return static_cast<int>(slots_of_expert.size()); }
};

// Contiguous balanced blocks without spare copies: expert e lives in slot floor(e * N / E), so the
// slots' numbers of experts differ by at most one. InvalidArgument unless 1 <= N <= E.
absl::StatusOr<Placement> PlaceInBlocks(int num_experts, int num_slots);

// InvalidArgument unless every expert has at least one slot, all slots are in [0, num_slots), and
// no slot is named twice for one expert.
absl::Status CheckPlacement(const Placement& placement);

// The experts that `slot` holds, ascending; spare copies included.
std::vector<int> ExpertsOfSlot(const Placement& placement, int slot);

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_PLACEMENT_H_
