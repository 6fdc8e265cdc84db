#include "simulator/limits.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "planner/feasibility.h"
#include "planner/memory.h"
#include "planner/sharing.h"

namespace moe::simulator {
namespace {

// The context of a model that says none.
constexpr int kMaxContext = 1 << 20;
constexpr int64_t kMaxBlocks = 1 << 24;  // as in a worker

}  // namespace

absl::StatusOr<engine::LeaderOptions> MakeLeaderOptions(const planner::Scenario& scenario,
                                                        const planner::Layout& layout,
                                                        const EngineLimits& limits) {
  absl::Status status = planner::CheckSizes(layout, scenario.model, scenario.network,
                                            static_cast<int>(layout.num_gpus()));
  if (!status.ok()) return status;
  status = planner::CheckSharing(layout, scenario.device, scenario.network);
  if (!status.ok()) return status;
  planner::Device own = scenario.device;
  own.memory_bytes = planner::MemoryOfOwner(scenario.model, scenario.device, scenario.network,
                                            scenario.assumptions, layout);
  status = planner::CheckMemory(layout, scenario.model, own, scenario.assumptions, 1);
  if (!status.ok()) return status;

  engine::LeaderOptions leader;
  engine::SchedulerLimits& steps = leader.limits;
  steps.num_owners = layout.num_owners();
  steps.max_step_tokens =
      limits.max_step_tokens > 0 ? limits.max_step_tokens : scenario.assumptions.prefill_rows;
  steps.max_sequences = limits.max_sequences > 0 ? limits.max_sequences : steps.max_step_tokens;
  const double owners = layout.num_owners();
  const planner::MemoryUse empty =
      planner::MemoryOf(scenario.model, layout, scenario.assumptions, 0, 1);
  const double token_bytes =
      planner::MemoryOf(scenario.model, layout, scenario.assumptions, owners, 1).kv_bytes;
  const double free_bytes = own.memory_bytes - empty.total_bytes();
  const double kv_tokens = limits.kv_tokens > 0 ? static_cast<double>(limits.kv_tokens)
                                                : std::max(0.0, free_bytes / token_bytes);
  const auto num_blocks = static_cast<int64_t>(
      std::min(kv_tokens / steps.kv_block_tokens, static_cast<double>(kMaxBlocks)));
  if (num_blocks < 1) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: a KV cache of %.0f tokens holds nothing: one block has %d",
                        LayoutName(layout), kv_tokens, steps.kv_block_tokens));
  }
  steps.kv_blocks_per_owner = static_cast<int>(num_blocks);
  leader.max_queue = limits.max_queue;
  leader.max_context =
      scenario.model.max_positions > 0 ? scenario.model.max_positions : kMaxContext;
  leader.vocab_size = scenario.model.vocab_size;
  return leader;
}

}  // namespace moe::simulator
