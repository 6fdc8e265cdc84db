// How long the parts of a recovery take, from the states that a group publishes.
//
//   detect   from the end of a process to its being known (measured where pods are observed)
//   replace  from the end of an epoch until every rank has a process
//   load     until every rank has its weights
//   join     until the next epoch is active
//
// Pure. Tested by tests/controller/operator/recovery_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_RECOVERY_H_
#define MOE_CONTROLLER_OPERATOR_RECOVERY_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "proto/coordinator.pb.h"

namespace moe::controller {

enum class RecoveryPhase { kDetect, kReplace, kLoad, kJoin };

const char* RecoveryPhaseName(RecoveryPhase phase);

struct RecoveryTime {
  RecoveryPhase phase = RecoveryPhase::kDetect;
  absl::Duration took;
};

// Of one group. Not thread-safe.
class RecoveryTracker {
 public:
  // The parts that ended with this state; nothing of a recovery that was given up.
  std::vector<RecoveryTime> OnState(const coordinator::v1::GroupState& state, absl::Time now);
  // Active epochs seen so far.
  uint64_t num_epochs() const { return num_epochs_; }

 private:
  uint64_t num_epochs_ = 0;
  uint64_t epoch_ = 0;                  // active as of the last state, else 0
  std::optional<RecoveryPhase> phase_;  // under way
  absl::Time since_;                    // of phase_
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_RECOVERY_H_
