#include "controller/reconcile/slots.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "controller/reconcile/gang.h"

namespace moe::reconcile {
namespace {

// A spare pod that ends is replaced no sooner than this after it was created: nobody counts its
// failures, and it may fail again and again.
constexpr absl::Duration kSparePause = absl::Minutes(1);

// Whether a pod of the claimed incarnation exists, or did.
bool IsUsed(const api::GroupStatus& group, const ObservedGroup& running, const GroupPods& pods,
            size_t slot) {
  return pods.of_slot[slot] != nullptr || pods.leaving[slot] ||
         slot >= running.used_incarnations.size() ||
         group.incarnations[slot] <= running.used_incarnations[slot];
}

// Whether the slot has a pod that the coordinator is about to learn of.
bool IsFilled(const ObservedGroup& running, const GroupPods& pods, size_t slot) {
  const ObservedPod* pod = pods.of_slot[slot];
  return pod != nullptr && !HasEnded(*pod) && FindUnwanted(running, *pod) == nullptr;
}

void FillSlot(Decision* decision, api::GroupStatus* group, const ObservedGroup& running,
              const GroupPods& pods, size_t slot) {
  if (IsUsed(*group, running, pods, slot)) {
    ++group->incarnations[slot];
  } else {
    decision->Do(CreatePod{group->index, static_cast<int>(slot), group->incarnations[slot],
                           group->revision, /*gated=*/false});
  }
}

// A spare slot whose pod could take over at once from that of `lost`; rather not one of the same
// node, which may be what was lost.
std::optional<size_t> FindSpare(const GroupPods& pods, size_t lost) {
  const ObservedPod* lost_pod = pods.of_slot[lost];
  std::optional<size_t> beside;
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    const ObservedPod* pod = pods.of_slot[slot];
    if (!pods.spare[slot] || pod == nullptr || pod->phase != ObservedPod::Phase::kRunning) {
      continue;
    }
    if (lost_pod == nullptr || pod->node != lost_pod->node) {
      return slot;
    }
    beside = beside.value_or(slot);
  }
  return beside;
}

// The spare pod gets the ranks of the lost one, whose slot is a spare one from the next decision
// on. That one's claim is raised: should its pod still live, for example because its node is lost,
// it is none that counts.
void TakeOver(api::GroupStatus* group, const ObservedGroup& running, size_t lost, size_t spare,
              GroupPods* pods) {
  std::replace(group->slot_of_rank.begin(), group->slot_of_rank.end(), static_cast<int>(lost),
               static_cast<int>(spare));
  pods->spare[spare] = false;
  if (IsUsed(*group, running, *pods, lost)) {
    ++group->incarnations[lost];
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
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    const ObservedPod* pod = pods.of_slot[slot];
    if (pod == nullptr || !pod->node.empty() || pods.spare[slot]) {
      continue;
    }
    if (decision->in.now - pod->created_at > timeout) {
      return pod;
    }
    decision->WakeAt(pod->created_at + timeout + absl::Milliseconds(1));
  }
  return nullptr;
}

void DeleteLostPods(Decision* decision, const ObservedGroup& running, const GroupPods& pods) {
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    const ObservedPod* pod = pods.of_slot[slot];
    if (pod == nullptr) {
      continue;
    }
    if (HasEnded(*pod)) {
      const absl::Time due = pod->created_at + kSparePause;
      if (pods.spare[slot] && decision->in.now < due) {
        decision->WakeAt(due);
      } else {
        decision->Do(DeletePod{pod->name, pod->uid, "it ended"});
      }
    } else if (FindUnwanted(running, *pod) != nullptr) {
      decision->Do(DeletePod{pod->name, pod->uid, "the coordinator has given it up"});
    }
  }
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
  GroupPods pods = PodsOf(decision->in, *group);
  if (const ObservedPod* pod = FindUnschedulable(decision, *running, pods); pod != nullptr) {
    GiveUpGang(decision, group,
               absl::StrCat("pod ", pod->name, " found no node",
                            pod->unschedulable.empty() ? "" : "; scheduler: ", pod->unschedulable));
    return;
  }
  DeleteLostPods(decision, *running, pods);
  for (const int wanted : running->wanted_slots) {
    const auto slot = static_cast<size_t>(wanted);
    if (wanted < 0 || slot >= pods.of_slot.size() || pods.spare[slot] ||
        IsFilled(*running, pods, slot)) {
      continue;
    }
    if (const std::optional<size_t> spare = FindSpare(pods, slot); spare.has_value()) {
      TakeOver(group, *running, slot, *spare, &pods);
    } else if (may_create) {
      FillSlot(decision, group, *running, pods, slot);
    }
  }
  for (size_t slot = 0; may_create && slot < pods.of_slot.size(); ++slot) {
    if (pods.spare[slot] && pods.of_slot[slot] == nullptr) {
      FillSlot(decision, group, *running, pods, slot);
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
