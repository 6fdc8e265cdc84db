// Tokens per expert and layer, summed over the processes that held the expert.
//
// Workers report counters since their process began. A slot's process may be replaced; what the old
// one counted stays in the total.
//
// Not thread-safe. Tested by tests/controller/coordinator/expert_load_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_EXPERT_LOAD_H_
#define MOE_CONTROLLER_COORDINATOR_EXPERT_LOAD_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "controller/coordinator/placement.h"

namespace moe::coordinator {

class ExpertLoad {
 public:
  ExpertLoad(const Placement& placement, int num_layers);

  // The counters of the process `identity` in `slot`.
  //   expert_tokens [num_layers * experts of this slot], layer-major, experts in ascending id
  // InvalidArgument, with nothing changed, for a slot or size that does not fit the placement.
  absl::Status Update(int slot, std::string_view identity,
                      absl::Span<const uint64_t> expert_tokens);

  // [num_layers * num_experts], layer-major.
  const std::vector<uint64_t>& totals() const { return totals_; }

 private:
  struct SlotCounters {
    std::vector<int> experts;    // ascending
    std::string identity;        // the process that sent `last`
    std::vector<uint64_t> last;  // [num_layers * experts.size()]
  };

  int num_layers_;
  int num_experts_;
  std::vector<SlotCounters> slots_;
  std::vector<uint64_t> totals_;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_EXPERT_LOAD_H_
