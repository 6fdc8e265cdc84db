// The conditions of a deployment, each with a reason for programs and a message for people that
// says what is the matter and what to do.
//
//   Ready              every group of the present revision is active and every gateway answers
//   Available          enough groups are active for what updateStrategy promises, and a gateway
//   answers Progressing        True also when complete; False once nothing moved for
//   progressDeadlineSeconds,
//                      which ends no attempt
//   GangScheduled      every pod of every group has a node
//   ModelReady         the model's files were read
//   CommunicatorReady  every group is connected and passed its canary exchange
//   Degraded           something that should work was lost or can't be kept up
//   Failed             only a change of the spec helps
//
// and only with mode: Auto:
//   LayoutDecided        there is a layout; with what is proposed instead, and how to take it
//   PlainReplicasBetter  whole models on the same GPUs would complete more requests
//
// Pure. Tested by tests/controller/reconcile/status_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_CONDITIONS_H_
#define MOE_CONTROLLER_RECONCILE_CONDITIONS_H_

#include "controller/reconcile/decision.h"
#include "controller/reconcile/inspection.h"
#include "controller/reconcile/layout_decision.h"
#include "controller/reconcile/revision.h"

namespace moe::reconcile {

// After all else of the status. Also sets status.progress_at.
void DescribeConditions(Decision* decision, const ModelState& model, const AutoState& automatic,
                        const Target& target);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_CONDITIONS_H_
