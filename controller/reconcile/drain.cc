#include "controller/reconcile/drain.h"

#include <algorithm>

namespace moe::reconcile {
namespace {

// Whether the group may be stopped now.
bool IsDrained(Decision* decision, const api::GroupStatus& group, const ObservedGroup& running) {
  const absl::Time now = decision->in.now;
  const bool serves = running.phase == ObservedGroup::Phase::kActive || IsAdopted(group, running);
  if (!serves || now - group.draining_since >= kDrainDeadline) {
    return true;
  }
  if (!running.draining) {
    decision->Do(DrainGroup{group.index});
    return false;
  }
  // Until its workers have come, nothing is known of what they compute.
  const bool idle = running.phase == ObservedGroup::Phase::kActive && running.num_running == 0 &&
                    running.num_waiting == 0;
  if (idle && now - group.draining_since >= kMinDrain) {
    return true;
  }
  decision->WakeAt(group.draining_since + kMinDrain);
  decision->WakeAt(group.draining_since + kDrainDeadline);
  return false;
}

void Stop(Decision* decision, const ObservedGroup* running) {
  if (running != nullptr && running->phase != ObservedGroup::Phase::kStopping) {
    decision->Do(StopGroup{running->index});
  }
}

}  // namespace

bool IsAdopted(const api::GroupStatus& group, const ObservedGroup& running) {
  using Phase = ObservedGroup::Phase;
  return group.active && running.wanted_slots.empty() &&
         (running.phase == Phase::kStarting || running.phase == Phase::kLoading ||
          running.phase == Phase::kConnecting);
}

bool CanAdopt(const Decision& decision, const api::GroupStatus& group) {
  if (!group.active || group.slot_of_rank.empty() ||
      decision.in.now - group.draining_since >= kDrainDeadline) {
    return false;
  }
  const GroupPods pods = PodsOf(decision.in, group);
  return std::all_of(group.slot_of_rank.begin(), group.slot_of_rank.end(), [&](int slot) {
    const ObservedPod* pod = PodAt(pods, slot);
    return pod != nullptr && !HasEnded(*pod);
  });
}

bool RunDrain(Decision* decision, const api::GroupStatus& group) {
  const ObservedGroup* running = FindRunning(decision->in, group.index);
  if (running == nullptr && CanAdopt(*decision, group)) {
    decision->Do(StartGroup{group.index, group.slot_of_rank, group.epoch, group.revision,
                            group.incarnations});
    decision->Do(DrainGroup{group.index});
    return false;
  }
  if (running != nullptr && !IsDrained(decision, group, *running)) {
    return false;
  }
  Stop(decision, running);
  const bool any = DeleteAllPods(decision, PodsOf(decision->in, group), group.reason);
  return running == nullptr && !any;
}

void RunFailedGroup(Decision* decision, const api::GroupStatus& group) {
  Stop(decision, FindRunning(decision->in, group.index));
  DeleteAllPods(decision, PodsOf(decision->in, group), "its group has failed");
}

void ForgetGroup(Decision* decision, int index) {
  api::MoEDeploymentStatus& status = decision->status;
  const api::GroupStatus* group = FindGroup(status, index);
  status.removed_epoch = std::max(status.removed_epoch, group->epoch);
  for (const int incarnation : group->incarnations) {
    status.next_incarnation = std::max(status.next_incarnation, incarnation + 1);
  }
  std::erase_if(status.groups, [&](const api::GroupStatus& other) { return other.index == index; });
}

}  // namespace moe::reconcile
