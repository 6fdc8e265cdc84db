// What people read in `kubectl describe`: one event for each turn, which is a difference between
// the status that is there and the one that replaces it. Since nothing else is looked at, a
// decision that is made again says nothing again.
//
// Pure. Tested by tests/controller/reconcile/status_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_EVENTS_H_
#define MOE_CONTROLLER_RECONCILE_EVENTS_H_

#include <vector>

#include "controller/reconcile/plan.h"

namespace moe::reconcile {

std::vector<Event> EventsBetween(const api::MoEDeploymentStatus& old_status,
                                 const api::MoEDeploymentStatus& new_status);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_EVENTS_H_
