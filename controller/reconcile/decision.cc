#include "controller/reconcile/decision.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace moe::reconcile {

void Decision::WakeAt(absl::Time time) {
  if (time > in.now) {
    plan.requeue_after = std::min(plan.requeue_after, time - in.now);
  }
}

std::string Decision::GroupName(int index) const {
  return absl::StrCat(in.deployment.ns, "/", in.deployment.name, "/", index);
}

const api::GroupStatus* FindGroup(const api::MoEDeploymentStatus& status, int index) {
  for (const api::GroupStatus& group : status.groups) {
    if (group.index == index) {
      return &group;
    }
  }
  return nullptr;
}

const ObservedGroup* FindRunning(const Observed& observed, int index) {
  for (const ObservedGroup& group : observed.groups) {
    if (group.index == index) {
      return &group;
    }
  }
  return nullptr;
}

const api::RevisionStatus* FindRevision(const api::MoEDeploymentStatus& status,
                                        absl::string_view name) {
  for (const api::RevisionStatus& revision : status.revisions) {
    if (revision.name == name) {
      return &revision;
    }
  }
  return nullptr;
}

bool HasEnded(const ObservedPod& pod) {
  return pod.phase == ObservedPod::Phase::kFailed || pod.phase == ObservedPod::Phase::kSucceeded;
}

const UnwantedPod* FindUnwanted(const ObservedGroup& running, const ObservedPod& pod) {
  for (const UnwantedPod& unwanted : running.unwanted_pods) {
    if (unwanted.uid == pod.uid) {
      return &unwanted;
    }
  }
  return nullptr;
}

GroupPods PodsOf(const Observed& observed, const api::GroupStatus& group) {
  const size_t num_slots = group.incarnations.size();
  GroupPods pods;
  pods.of_slot.resize(num_slots, nullptr);
  pods.leaving.resize(num_slots, false);
  pods.spare.resize(num_slots, !group.slot_of_rank.empty());
  for (const int slot : group.slot_of_rank) {
    if (slot >= 0 && static_cast<size_t>(slot) < num_slots) {
      pods.spare[static_cast<size_t>(slot)] = false;
    }
  }
  for (const ObservedPod& pod : observed.pods) {
    if (pod.group != group.index) {
      continue;
    }
    const bool known_slot = pod.slot >= 0 && static_cast<size_t>(pod.slot) < num_slots;
    const size_t slot = known_slot ? static_cast<size_t>(pod.slot) : 0;
    const int claimed = known_slot ? group.incarnations[slot] : -1;
    if (pod.terminating) {
      if (known_slot && pod.incarnation == claimed) {
        pods.leaving[slot] = true;
      }
    } else if (!known_slot || pod.incarnation < claimed || pod.revision != group.revision) {
      pods.earlier.push_back(&pod);
    } else if (pod.incarnation > claimed) {
      pods.later.push_back(&pod);
    } else {
      pods.of_slot[slot] = &pod;
    }
  }
  return pods;
}

const ObservedPod* PodAt(const GroupPods& pods, int slot) {
  const bool known = slot >= 0 && static_cast<size_t>(slot) < pods.of_slot.size();
  return known ? pods.of_slot[static_cast<size_t>(slot)] : nullptr;
}

bool DeleteAllPods(Decision* decision, const GroupPods& pods, absl::string_view reason) {
  bool any = false;
  const auto remove = [&](const ObservedPod* pod) {
    if (pod != nullptr) {
      decision->Do(DeletePod{pod->name, pod->uid, std::string(reason)});
      any = true;
    }
  };
  for (const std::vector<const ObservedPod*>* list : {&pods.of_slot, &pods.earlier, &pods.later}) {
    std::for_each(list->begin(), list->end(), remove);
  }
  return any;
}

Service ServiceOf(const Observed& observed, const api::GroupStatus& group) {
  using Phase = ObservedGroup::Phase;
  Service service;
  if (group.slot_of_rank.empty() || group.phase == kDraining || group.phase == kFailed) {
    return service;
  }
  const ObservedGroup* running = FindRunning(observed, group.index);
  if (running == nullptr) {
    service.may_return = group.active;
    return service;
  }
  service.active = running->phase == Phase::kActive;
  if (running->wanted_slots.empty()) {
    service.may_return = running->phase == Phase::kRecovering ||
                         (running->phase == Phase::kStarting && group.active);
  }
  return service;
}

Promise PromiseOf(const api::MoEDeploymentSpec& spec) {
  int unavailable = spec.update_strategy.max_unavailable.Resolve(spec.replicas, /*round_up=*/false);
  const int surge = spec.update_strategy.max_surge.Resolve(spec.replicas, /*round_up=*/true);
  // With neither, a rollout could never begin.
  if (unavailable == 0 && surge == 0) {
    unavailable = 1;
  }
  return {.min_active = std::max(0, spec.replicas - unavailable),
          .max_groups = spec.replicas + surge};
}

}  // namespace moe::reconcile
