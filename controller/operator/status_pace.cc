#include "controller/operator/status_pace.h"

#include <algorithm>
#include <variant>

namespace moe::controller {
namespace {

api::MoEDeploymentStatus WithoutProgress(api::MoEDeploymentStatus status) {
  status.workers.clear();
  status.progress_at = absl::InfinitePast();
  for (api::GroupStatus& group : status.groups) {
    group.reason.clear();
    group.ranks.clear();
    group.ranks_left_out = 0;
  }
  for (api::Condition& condition : status.conditions) condition.message.clear();
  return status;
}

}  // namespace

bool DifferInProgressAlone(const api::MoEDeploymentStatus& before,
                           const api::MoEDeploymentStatus& after) {
  return WithoutProgress(before) == WithoutProgress(after);
}

absl::Duration HoldBackProgress(const api::MoEDeploymentStatus& before, absl::Time last_written,
                                absl::Time now, reconcile::Plan* plan) {
  const absl::Duration wait = last_written + kProgressInterval - now;
  if (wait <= absl::ZeroDuration()) return absl::InfiniteDuration();
  const auto write =
      std::find_if(plan->actions.begin(), plan->actions.end(), [](const reconcile::Action& action) {
        return std::holds_alternative<reconcile::WriteStatus>(action);
      });
  if (write == plan->actions.end() ||
      !DifferInProgressAlone(before, std::get<reconcile::WriteStatus>(*write).status)) {
    return absl::InfiniteDuration();
  }
  plan->actions.erase(write);
  return wait;
}

}  // namespace moe::controller
