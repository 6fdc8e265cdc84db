// The pods of a group that the coordinator runs: who ended is deleted, and a slot is filled again
// when the coordinator wants it. Also pods that nobody claimed.
//
// A running spare pod gets the ranks of a lost one: the status has the new slot_of_rank, and the
// coordinator is told when that is observed. The lost slot becomes a spare one, and is filled as
// such.
//
// A replacement is claimed with its incarnation first and created when the claim is observed. A pod
// that is being deleted blocks nothing, however long it takes: the next one has another name.
//
// Pure. Tested by tests/controller/reconcile/pods_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_SLOTS_H_
#define MOE_CONTROLLER_RECONCILE_SLOTS_H_

#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// REQUIRES: group->slot_of_rank is not empty. may_create: its revision is what the spec asks for.
void RunStartedGroup(Decision* decision, api::GroupStatus* group, bool may_create);

// Deletes pods of earlier incarnations, and claims above those that are later than what is claimed.
// Such a pod means that this view of the status is old, and then the claim conflicts; or that a
// status was lost, and then the pod is superseded by the claim.
void RemoveUnclaimedPods(Decision* decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_SLOTS_H_
