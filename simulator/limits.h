// How much one group takes at once, as engine: of a MoEDeployment says it.
//
// Tested by tests/simulator/limits_test.cc.
#ifndef MOE_SIMULATOR_LIMITS_H_
#define MOE_SIMULATOR_LIMITS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "planner/prediction.h"
#include "worker/engine/leader.h"

namespace moe::simulator {

struct EngineLimits {
  int max_sequences = 0;    // 0: as many as rows
  int max_step_tokens = 0;  // 0: the rows that Assumptions::prefill_rows allows one rank
  int max_queue = 256;      // sequences that wait; more are refused (HTTP 429)
  int64_t kv_tokens = 0;    // of one owner; 0: what weights and buffers leave room for
};

// With everything filled in, for this layout. Fails with the planner's reasons why the layout
// can't work; ResourceExhausted when the KV cache does not hold one block.
absl::StatusOr<engine::LeaderOptions> MakeLeaderOptions(const planner::Scenario& scenario,
                                                        const planner::Layout& layout,
                                                        const EngineLimits& limits);

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_LIMITS_H_
