// Which groups there are: added, and marked to be removed.
//
//   * never more groups than replicas + maxSurge by adding one (those that drain count: they hold
//     GPUs), and never fewer active ones than replicas - maxUnavailable by removing one;
//   * a group of an earlier revision that serves nothing goes first and at once, so a spec that is
//     changed again in the middle of a rollout leaves nothing half done behind;
//   * of too many groups, those that do not serve go first, then those of the highest index;
//   * a new group gets the lowest free index.
//
// Pure. Tested by tests/controller/reconcile/groups_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_GROUPS_H_
#define MOE_CONTROLLER_RECONCILE_GROUPS_H_

#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// Changes the status alone. REQUIRES: a spec that was understood, not frozen, not deleting.
// `target_known`: status.revision is what the spec asks for; without it only replicas are looked
// at.
void DecideGroups(Decision* decision, bool target_known);

void DrainAllGroups(Decision* decision);

// A group that failed stays so until the spec changes, in whatever; then it begins again.
void ReviveFailedGroups(Decision* decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_GROUPS_H_
