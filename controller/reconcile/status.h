// What the status says beside claims and conditions: phases and ranks of groups, counts, the
// start-up timeline, the last failure, expert load.
//
// Pure. Tested by tests/controller/reconcile/status_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_STATUS_H_
#define MOE_CONTROLLER_RECONCILE_STATUS_H_

#include "absl/time/time.h"
#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// The load of experts moves all the time; a status that does wakes every watcher.
inline constexpr absl::Duration kExpertLoadInterval = absl::Seconds(30);

// FailureStatus.reason of a pod that the coordinator gave up while its process went on; last_log
// says why.
inline constexpr char kGivenUp[] = "GivenUp";

// Keeps the newest failure of a worker's pod: it is gone once the pod is deleted.
void RecordFailure(Decision* decision);

// Notes worker pods that ended with runtime::kGpuLostExitCode, once each, and forgets old ones.
void RecordGpuFailures(Decision* decision);

// Phase, epoch, activity and ranks of all groups. After what is decided about them.
void DescribeGroups(Decision* decision);

// Everything that is computed from the groups: counts, texts, the timeline, the load.
void DescribeDeployment(Decision* decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_STATUS_H_
