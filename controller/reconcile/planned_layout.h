// The planner's part of `mode: Auto`: for GPUs and a model that it knows. See auto_layout.h.
//
// Pure. Tested by tests/controller/reconcile/auto_layout_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_PLANNED_LAYOUT_H_
#define MOE_CONTROLLER_RECONCILE_PLANNED_LAYOUT_H_

#include <vector>

#include "controller/reconcile/auto_layout.h"

namespace moe::reconcile {

// Widths of a group that may be chosen, ascending: they divide the experts and fill whole pods, and
// so many replicas of them are within the bounds of a MoEDeployment and `num_gpus`.
std::vector<int> PossibleWidths(const api::MoEDeploymentSpec& spec, int num_experts, int num_gpus);

// REQUIRES: `pool` has a device, `widths` is not empty and comes from PossibleWidths.
AutoLayout PlanLayout(const api::MoEDeploymentSpec& spec, const planner::ModelShape& shape,
                      const GpuPool& pool, const planner::Network& network,
                      const std::vector<int>& widths, const api::LayoutChoice* present);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_PLANNED_LAYOUT_H_
