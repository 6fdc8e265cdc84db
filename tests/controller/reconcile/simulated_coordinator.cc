// The coordinator of the simulated cluster: who is a member, and which epoch runs.
#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "controller/reconcile/decision.h"
#include "runtime/slot_ranks.h"
#include "tests/controller/reconcile/simulated_cluster.h"

namespace moe::reconcile {

using Phase = ObservedGroup::Phase;

void SimulatedCluster::SetLoaded(Group* group, size_t slot, bool loaded) {
  for (size_t rank = 0; rank < group->slot_of_rank.size(); ++rank) {
    if (group->slot_of_rank[rank] == static_cast<int>(slot)) {
      group->seen.rank_loaded[rank] = loaded;
    }
  }
}

void SimulatedCluster::AssignRanks(const Controller& controller, Group* group) {
  const api::GroupStatus* claims = FindGroup(controller.deployment.status, group->seen.index);
  if (claims != nullptr && claims->slot_of_rank.size() == group->slot_of_rank.size()) {
    group->slot_of_rank = claims->slot_of_rank;
  }
}

void SimulatedCluster::LoseMember(Group* group, size_t slot) {
  group->member_of_slot[slot].clear();
  SetLoaded(group, slot, false);
  group->may_adopt = false;
  for (const std::string& uid : group->member_of_slot) {
    if (Pod* pod = FindUid(uid); pod != nullptr) {
      pod->process.epoch = 0;  // Abort
    }
  }
  group->seen.epoch = 0;
  group->seen.phase = Phase::kRecovering;
  if (++group->num_failures[slot] >= options_.max_slot_failures) {
    group->seen.phase = Phase::kFailed;
    group->seen.reason = absl::StrCat("worker ", slot, " failed too often");
  }
}

void SimulatedCluster::WatchMembers(const Controller& controller, Group* group) {
  AssignRanks(controller, group);
  ObservedGroup& seen = group->seen;
  seen.wanted_slots.clear();
  for (size_t slot = 0; slot < group->member_of_slot.size(); ++slot) {
    std::string& member = group->member_of_slot[slot];
    if (!member.empty()) {
      const auto in_view = std::find_if(controller.pods.begin(), controller.pods.end(),
                                        [&](const ObservedPod& pod) { return pod.uid == member; });
      const Pod* pod = FindUid(member);
      const bool silent = pod != nullptr && !pod->process.alive;
      if (silent) {
        seen.unwanted_pods.push_back({member, "it is silent"});
      }
      if (silent || in_view == controller.pods.end() || HasEnded(*in_view)) {
        LoseMember(group, slot);
      }
    }
    int& used = seen.used_incarnations[slot];
    const api::GroupStatus* claims = FindGroup(controller.deployment.status, seen.index);
    const int claimed =
        claims != nullptr && slot < claims->incarnations.size() ? claims->incarnations[slot] : 0;
    const ObservedPod* newest = nullptr;
    for (const ObservedPod& pod : controller.pods) {
      if (pod.group != seen.index || pod.slot != static_cast<int>(slot)) {
        continue;
      }
      if (pod.incarnation >= used) {
        used = pod.incarnation;
        const bool usable = !pod.terminating && pod.phase == ObservedPod::Phase::kRunning &&
                            pod.incarnation >= claimed && FindUnwanted(seen, pod) == nullptr;
        newest = usable ? &pod : nullptr;
      }
    }
    if (runtime::RankOf(group->slot_of_rank, static_cast<int>(slot)) < 0) {
      if (!member.empty()) {
        LoseMember(group, slot);
      }
      continue;
    }
    if (member.empty() && newest != nullptr) {
      member = newest->uid;
    }
    if (member.empty()) {
      seen.wanted_slots.push_back(static_cast<int>(slot));
    }
  }
}

bool SimulatedCluster::ClaimEpoch(Controller* controller, Group* group) {
  const uint64_t epoch = ++group->last_epoch;
  for (api::GroupStatus& entry : object_.status.groups) {
    if (entry.index == group->seen.index && controller->term == object_.status.term) {
      if (entry.epoch >= epoch) {
        group->last_epoch = entry.epoch;
        return false;
      }
      entry.epoch = epoch;
      Touch();
      controller->must_refresh = true;
      if (!claimed_.emplace(entry.index, epoch).second) {
        Broken(absl::StrCat("epoch ", epoch, " of group ", entry.index, " is claimed again"));
      }
      return true;
    }
  }
  return false;
}

// Begins an epoch, or adopts the one that runs, once every slot has a member that is loaded.
void SimulatedCluster::Connect(Controller* controller, Group* group) {
  if (group->seen.epoch != 0 || !group->seen.wanted_slots.empty()) {
    return;
  }
  std::vector<Process*> processes;
  for (size_t slot = 0; slot < group->member_of_slot.size(); ++slot) {
    if (runtime::RankOf(group->slot_of_rank, static_cast<int>(slot)) < 0) {
      continue;
    }
    Pod* pod = FindUid(group->member_of_slot[slot]);
    if (pod == nullptr || !pod->process.alive || pod->process.term > controller->term) {
      return;
    }
    SetLoaded(group, slot, pod->process.loaded);
    if (!pod->process.loaded) {
      group->seen.phase = Phase::kLoading;
      return;
    }
    pod->process.rank = runtime::RankOf(group->slot_of_rank, static_cast<int>(slot));
    processes.push_back(&pod->process);
  }
  const bool adopts = group->may_adopt && group->last_epoch != 0 &&
                      std::all_of(processes.begin(), processes.end(), [&](const Process* process) {
                        return process->epoch == group->last_epoch;
                      });
  group->may_adopt = false;
  if (!adopts && !ClaimEpoch(controller, group)) {
    return;
  }
  for (Process* process : processes) {
    process->term = controller->term;
    process->epoch = group->last_epoch;
  }
  group->seen.epoch = group->last_epoch;
  group->seen.phase = Phase::kActive;
  group->seen.generated_tokens += 1;
}

void SimulatedCluster::Coordinate(Controller* controller) {
  for (auto& [index, group] : controller->groups) {
    if (group.seen.phase == Phase::kFailed) {
      continue;
    }
    WatchMembers(*controller, &group);
    if (group.seen.phase != Phase::kFailed) {
      Connect(controller, &group);
    }
    group.seen.num_running = group.seen.draining && OneIn(2) ? 0 : 1;
  }
}

}  // namespace moe::reconcile
