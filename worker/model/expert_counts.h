// How many tokens the experts of a rank have run.
#ifndef MOE_WORKER_MODEL_EXPERT_COUNTS_H_
#define MOE_WORKER_MODEL_EXPERT_COUNTS_H_

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace moe::model {

// Written by the engine thread, read by any.
class ExpertCounts {
 public:
  // experts: ascending ids that this rank holds.
  ExpertCounts(int num_layers, std::vector<int> experts)
      : num_layers_(num_layers),
        experts_(std::move(experts)),
        num_tokens_(static_cast<size_t>(num_layers) * experts_.size()) {}

  const std::vector<int>& experts() const { return experts_; }
  int num_layers() const { return num_layers_; }

  void AddTokens(int layer, int expert_idx, uint64_t num_tokens) {
    num_tokens_[Place(layer, expert_idx)].fetch_add(num_tokens, std::memory_order_relaxed);
  }
  // Tokens that the expert_idx-th expert of this rank ran in a layer.
  uint64_t num_tokens(int layer, int expert_idx) const {
    return num_tokens_[Place(layer, expert_idx)].load(std::memory_order_relaxed);
  }

  // Time in which experts ran. A GPU's is not measured apart: StepTimes::kDevice has it.
  void AddBusy(int64_t nanoseconds) {
    busy_nanoseconds_.fetch_add(static_cast<uint64_t>(nanoseconds), std::memory_order_relaxed);
  }
  double busy_seconds() const {
    return 1e-9 * static_cast<double>(busy_nanoseconds_.load(std::memory_order_relaxed));
  }

 private:
  size_t Place(int layer, int expert_idx) const {
    return static_cast<size_t>(layer) * experts_.size() + static_cast<size_t>(expert_idx);
  }

  const int num_layers_;
  const std::vector<int> experts_;
  std::vector<std::atomic<uint64_t>> num_tokens_;  // [num_layers, experts_.size()]
  std::atomic<uint64_t> busy_nanoseconds_{0};
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_EXPERT_COUNTS_H_
