// Which statuses can wait. A thousand pods that get ready would be a thousand statuses, each of
// which the API server checks, stores and sends to everybody who watches. What only people read,
// and will be different in a moment, is written now and then; every turn is written at once.
//
// Tested by tests/controller/operator/status_pace_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_STATUS_PACE_H_
#define MOE_CONTROLLER_OPERATOR_STATUS_PACE_H_

#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"
#include "controller/reconcile/plan.h"

namespace moe::controller {

inline constexpr absl::Duration kProgressInterval = absl::Seconds(1);

// Whether they differ at most in what counts and describes: numbers of ready pods, phases of single
// ranks, messages, and when something last moved.
bool DifferInProgressAlone(const api::MoEDeploymentStatus& before,
                           const api::MoEDeploymentStatus& after);

// Takes a status that shows progress alone out of `plan` when the last one was written less than
// kProgressInterval ago. Returns for how long it is held back; InfiniteDuration if it is not.
absl::Duration HoldBackProgress(const api::MoEDeploymentStatus& before, absl::Time last_written,
                                absl::Time now, reconcile::Plan* plan);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_STATUS_PACE_H_
