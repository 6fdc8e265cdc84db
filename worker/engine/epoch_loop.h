// What a rank does while an epoch is active: the leader plans steps and computes its share, the
// others follow. Returns when the epoch ends.
//
// Tested by tests/system/bitwise_test.cc.
#ifndef MOE_WORKER_ENGINE_EPOCH_LOOP_H_
#define MOE_WORKER_ENGINE_EPOCH_LOOP_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "worker/engine/leader.h"
#include "worker/engine/owner.h"
#include "worker/exchange/exchange.h"
#include "worker/model/decoder.h"

namespace moe::engine {

// One rank in one epoch. The pointers are not owned.
struct EpochRank {
  uint64_t epoch = 0;
  int rank = 0;
  int num_ranks = 1;
  bool replicated = false;
  model::LayerLoop* layers = nullptr;
  exchange::ControlChannel* control = nullptr;
  Owner* owner = nullptr;                         // null for a rank that only holds experts
  const std::atomic<bool>* stop = nullptr;        // set when the epoch is over
  std::atomic<uint64_t>* current_step = nullptr;  // written for heartbeats and metrics
};

// The ranks other than 0 that have a part in `plan`: owners of its slices, or everybody when
// attention is replicated or the layers are collective. Ascending.
std::vector<int> RanksOfPlan(const v1::StepPlan& plan, const EpochRank& rank);

// Rank 0. Runs steps as long as the leader has work and waits for it otherwise. Returns Aborted
// when the epoch was ended from outside; anything else is this rank's reason to end it.
absl::Status LeadEpoch(const EpochRank& rank, Leader* leader);

// Every other rank. Errors as above.
absl::Status FollowEpoch(const EpochRank& rank);

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_EPOCH_LOOP_H_
