// What `mode: Auto` has decided, kept in status.decision.
//
//   * Decided once: when the model is known, and anew when the spec changes in what the decision is
//     bound to (model, backend, gpusPerPod, nvlinkAcrossPods, attention, attentionRanks), which
//     rolls the groups anyway.
//   * Looked at again when anything else has changed that goes into it (nodes, replicas, the
//     engine's limits, the planner's numbers). A layout that is then better by kWorthwhile, or
//     possible where the present one is not any more, becomes the proposal, and changes nothing.
//   * A proposal is taken when the annotation moe-operator.dev/adopt-layout turns to its name. Each
//     value of the annotation is acted upon once: one that was there before, or names something
//     else, adopts nothing later by itself.
//   * A deployment that runs, and whose decision is not in its status, keeps the layout that it
//     runs in.
//
// Pure. Tested by tests/controller/reconcile/layout_decision_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_LAYOUT_DECISION_H_
#define MOE_CONTROLLER_RECONCILE_LAYOUT_DECISION_H_

#include <string>

#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// LayoutDecision.basis of a layout that was found running.
inline constexpr char kKept[] = "Kept";

struct AutoState {
  bool decided = false;  // status.decision has the layout that the spec stands for
  // Else why not, as a condition's reason and message. `failed`: only a change of the spec helps.
  bool failed = false;
  std::string reason = {};
  std::string message = {};
};

// Whether the shape of the model is needed, and may be found by reading the model again.
bool WantsShape(const api::MoEDeploymentSpec& spec, const api::ModelStatus& model);

// Sets status.decision; takes it out where the mode is not Auto. REQUIRES: spec_status is OK, and
// status.model was brought up to date.
AutoState DecideLayout(Decision* decision);

// For the condition LayoutDecided: the layout, why, what is proposed, and how to take it.
std::string LayoutText(const api::MoEDeployment& deployment, const api::LayoutDecision& decision);

// For the condition PlainReplicasBetter. REQUIRES: decision.plain_replicas.
struct PlainText {
  std::string reason;
  std::string message;
};
PlainText PlainReplicasText(const api::LayoutDecision& decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_LAYOUT_DECISION_H_
