#include "controller/reconcile/slots.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "controller/reconcile/gang.h"

namespace moe::reconcile {
namespace {

void FillSlot(Decision* decision, api::GroupStatus* group, const ObservedGroup& running,
              const GroupPods& pods, size_t slot) {
  const ObservedPod* pod = pods.of_slot[slot];
  if (pod != nullptr && !HasEnded(*pod) && FindUnwanted(running, *pod) == nullptr) {
    return;  // the coordinator is about to learn of it
  }
  const int claimed = group->incarnations[slot];
  const bool used = pod != nullptr || pods.leaving[slot] ||
                    slot >= running.used_incarnations.size() ||
                    claimed <= running.used_incarnations[slot];
  if (used) {
    group->incarnations[slot] = claimed + 1;
  } else {
    decision->Do(CreatePod{group->index, static_cast<int>(slot), claimed, group->revision,
                           /*gated=*/false});
  }
}

// A replacement that finds no node keeps the rest of its group from serving while they hold their
// GPUs. A group that serves has a node for each, whatever an older view of its pods says.
const ObservedPod* FindUnschedulable(Decision* decision, const ObservedGroup& running,
                                     const GroupPods& pods) {
  if (running.phase == ObservedGroup::Phase::kActive) {
    return nullptr;
  }
  const absl::Duration timeout = decision->in.deployment.spec.worker.gang_timeout;
  for (const ObservedPod* pod : pods.of_slot) {
    if (pod == nullptr || !pod->node.empty()) {
      continue;
    }
    if (decision->in.now - pod->created_at > timeout) {
      return pod;
    }
    decision->WakeAt(pod->created_at + timeout + absl::Milliseconds(1));
  }
  return nullptr;
}

}  // namespace

void RunStartedGroup(Decision* decision, api::GroupStatus* group, bool may_create) {
  const ObservedGroup* running = FindRunning(decision->in, group->index);
  if (running == nullptr) {
    decision->Do(StartGroup{group->index, group->slot_of_rank, group->epoch, group->revision,
                            group->incarnations});
    return;
  }
  if (decision->frozen() || running->phase == ObservedGroup::Phase::kStopping) {
    return;
  }
  if (running->phase == ObservedGroup::Phase::kFailed) {
    group->phase = kFailed;
    group->active = false;
    group->reason = running->reason;
    return;
  }
  const GroupPods pods = PodsOf(decision->in, *group);
  if (const ObservedPod* pod = FindUnschedulable(decision, *running, pods); pod != nullptr) {
    GiveUpGang(decision, group,
               absl::StrCat("pod ", pod->name, " found no node",
                            pod->unschedulable.empty() ? "" : "; scheduler: ", pod->unschedulable));
    return;
  }
  for (const ObservedPod* pod : pods.of_slot) {
    if (pod == nullptr) {
      continue;
    }
    if (HasEnded(*pod)) {
      decision->Do(DeletePod{pod->name, pod->uid, "it ended"});
    } else if (FindUnwanted(*running, *pod) != nullptr) {
      decision->Do(DeletePod{pod->name, pod->uid, "the coordinator has given it up"});
    }
  }
  if (!may_create) {
    return;
  }
  for (const int slot : running->wanted_slots) {
    if (slot >= 0 && static_cast<size_t>(slot) < pods.of_slot.size()) {
      FillSlot(decision, group, *running, pods, static_cast<size_t>(slot));
    }
  }
}

void RemoveUnclaimedPods(Decision* decision) {
  for (api::GroupStatus& group : decision->status.groups) {
    const api::GroupStatus* claimed = FindGroup(decision->old, group.index);
    if (claimed == nullptr) {
      continue;
    }
    const GroupPods pods = PodsOf(decision->in, *claimed);
    for (const ObservedPod* pod : pods.later) {
      int& incarnation = group.incarnations[static_cast<size_t>(pod->slot)];
      incarnation = std::max(incarnation, pod->incarnation + 1);
    }
    if (claimed->phase == kDraining || claimed->phase == kFailed) {
      continue;  // whoever ends the group deletes all of its pods
    }
    for (const ObservedPod* pod : pods.earlier) {
      decision->Do(DeletePod{pod->name, pod->uid, "it is superseded"});
    }
  }
  for (const ObservedPod& pod : decision->in.pods) {
    if (pod.terminating || FindGroup(decision->old, pod.group) != nullptr) {
      continue;
    }
    if (pod.incarnation < decision->old.next_incarnation) {
      decision->Do(DeletePod{pod.name, pod.uid, "its group is gone"});
    } else {
      decision->status.next_incarnation =
          std::max(decision->status.next_incarnation, pod.incarnation + 1);
    }
  }
}

}  // namespace moe::reconcile
