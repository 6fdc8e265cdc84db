// The end of a group: gateways send it nothing new, what it computes is finished, then it is
// stopped and its pods are deleted.
//
// A group that does not serve is stopped at once; one that another controller ran is first led
// again. Nobody waits longer than kDrainDeadline: a gateway goes on with what is cut off on another
// group, if there is one.
//
// Pure. Tested by tests/controller/reconcile/groups_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_DRAIN_H_
#define MOE_CONTROLLER_RECONCILE_DRAIN_H_

#include "absl/time/time.h"
#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// Gateways learn of it within this time; before, no sequence in sight means little.
inline constexpr absl::Duration kMinDrain = absl::Seconds(5);
// The longest generation takes minutes, and whoever waits for a group holds a rollout up.
inline constexpr absl::Duration kDrainDeadline = absl::Minutes(10);

// Of a draining group that served under an earlier controller:
// whether its workers are all there to be found by this one,
bool CanAdopt(const Decision& decision, const api::GroupStatus& group);
// and whether this one still waits for them.
bool IsAdopted(const api::GroupStatus& group, const ObservedGroup& running);

// Goes on with the removal of a group whose status says kDraining; true: nothing is left of it, and
// it belongs out of the status.
bool RunDrain(Decision* decision, const api::GroupStatus& group);

// Stops a group that failed and deletes its pods; it stays in the status, with its reason.
void RunFailedGroup(Decision* decision, const api::GroupStatus& group);

// Takes a group out of the status and keeps what a later group must not repeat.
void ForgetGroup(Decision* decision, int index);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_DRAIN_H_
