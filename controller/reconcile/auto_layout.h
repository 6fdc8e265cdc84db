// Which layout `mode: Auto` stands for: from the model, the GPUs that exist, and what the spec
// leaves open.
//
// What may be chosen is what a MoEDeployment can say and this version can run: widths that divide
// the experts and fill whole pods, so that spec.replicas groups fit the GPUs. The planner puts them
// in order by completed requests/s, with spec.engine.maxSequences sequences in flight in each group
// or as many as fit its memory. NVLink joins the GPUs of one pod; between pods the network counts.
//
// Where it has no figures, a rule decides and the decision says so:
//   backend CPU           one worker for each expert
//   a GPU it does not know, a model whose shape was not told
//                         one worker for each expert, or as many as the GPUs allow
//
// Pure. Tested by tests/controller/reconcile/auto_layout_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_AUTO_LAYOUT_H_
#define MOE_CONTROLLER_RECONCILE_AUTO_LAYOUT_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "controller/api/moe_deployment.h"
#include "controller/reconcile/gpu_inventory.h"
#include "planner/model_shape.h"

namespace moe::reconcile {

// LayoutDecision.basis, and the reason of the condition LayoutDecided.
inline constexpr char kPlanned[] = "Planned";
inline constexpr char kCpuRule[] = "OneWorkerForEachExpert";
inline constexpr char kUnknownGpu[] = "UnknownGpu";
inline constexpr char kUnknownShape[] = "UnknownShape";

// Another layout must complete so many times the requests to be worth saying.
inline constexpr double kWorthwhile = 1.05;

struct AutoLayoutInput {
  const api::MoEDeploymentSpec* spec = nullptr;
  const api::ModelStatus* model = nullptr;
  const GpuInventory* gpus = nullptr;  // nullptr: not known; not looked at for backend CPU
};

struct AutoLayout {
  // Without what layout_decision.h keeps: proposal, time, keys.
  std::optional<api::LayoutDecision> decision = {};
  // Where there is none: why, as a condition's reason and message. `failed`: only a change of the
  // spec helps; otherwise other GPUs may.
  bool failed = false;
  std::string reason = {};
  std::string message = {};
};

// `present`: a layout that is only given up for one that is worth it; may be null.
AutoLayout DecideAutoLayout(const AutoLayoutInput& input, const api::LayoutChoice* present);

// "EP8_TP1_PP1_DP1+A4": of one group.
std::string GroupLayoutName(int expert, int attention_ranks, bool replicated_attention);

// What the planner needs of a model. Fails where the shape is not there or makes no sense.
absl::StatusOr<planner::ModelShape> PlannerShape(const api::ModelStatus& model);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_AUTO_LAYOUT_H_
