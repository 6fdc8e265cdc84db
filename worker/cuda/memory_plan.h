// How a GPU's memory is divided: weights, working memory, and a KV cache that takes what is left.
// Pure. Tested by tests/worker/cuda/memory_plan_test.cc.
#ifndef MOE_WORKER_CUDA_MEMORY_PLAN_H_
#define MOE_WORKER_CUDA_MEMORY_PLAN_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/config.h"

namespace moe::cuda {

// What a rank has to hold.
struct RankNeeds {
  int num_local_experts = 0;
  bool attention = true;
  int num_ranks = 1;
  bool replicated = false;      // every rank has all rows
  int max_rows = 512;           // of one owner in one step
  int max_positions = 0;        // longest sequence
  uint64_t kv_bytes = 0;        // 0: what is left
  uint64_t exchange_bytes = 0;  // of an exchange between GPUs, which it allocates itself
};

struct DeviceMemory {
  std::string name;  // of the GPU, for messages
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  // Of total_bytes, how much may be in use at all, by this process and by others.
  double share = 0.9;
};

struct MemoryPlan {
  uint64_t attention_weight_bytes = 0;  // and embedding, head, norms, router
  uint64_t expert_weight_bytes = 0;
  uint64_t working_bytes = 0;
  uint64_t exchange_bytes = 0;
  uint64_t kv_bytes = 0;  // with a spare block
  int num_kv_blocks = 0;  // that sequences may use

  // Allocated in one piece.
  uint64_t num_bytes() const {
    return attention_weight_bytes + expert_weight_bytes + working_bytes + exchange_bytes + kv_bytes;
  }
};

// What the kernels can't run, whatever the GPU: InvalidArgument names the field.
absl::Status CheckModel(const model::ModelConfig& config);

// (row, expert) pairs of one layer that may come to one rank: every row of every source, a rank
// whose rows are its own, chooses as many of the rank's experts as it can.
int MaxPairs(const model::ModelConfig& config, int num_local_experts, int max_rows,
             int num_sources);
// 1 where attention is replicated, since one rank's rows are all.
inline int NumSources(int num_ranks, bool replicated) { return replicated ? 1 : num_ranks; }

// ResourceExhausted says what is needed by part, what there is, and what would fit: a shorter
// context, smaller steps, or more GPUs that share the experts. The KV cache holds at least one
// sequence of max_positions.
absl::StatusOr<MemoryPlan> PlanMemory(const model::ModelConfig& config, const RankNeeds& needs,
                                      const DeviceMemory& memory);

// One line for the log.
std::string Describe(const MemoryPlan& plan, const DeviceMemory& memory);

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_MEMORY_PLAN_H_
