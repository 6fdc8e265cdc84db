#include "controller/reconcile/gang.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace moe::reconcile {
namespace {

// A turn that another deployment holds ends without a change of this one.
constexpr absl::Duration kTurnPoll = absl::Seconds(5);
// For so long a gang that has no room keeps others waiting, if its gangTimeout is not shorter.
constexpr absl::Duration kMaxBlockedTurn = absl::Seconds(30);

bool InFlight(const api::GroupStatus& group) {
  return group.phase == kScheduling && group.slot_of_rank.empty() &&
         group.gang_since != absl::InfinitePast();
}

// Why the gang can't be completed; empty: it can.
std::string LostMember(const GroupPods& pods, bool gates_went) {
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    const ObservedPod* pod = pods.of_slot[slot];
    if (pod != nullptr && HasEnded(*pod)) {
      return absl::StrCat("pod ", pod->name, " ", kEndedEarly, pod->exit_reason.empty() ? "" : ": ",
                          pod->exit_reason);
    }
    if (pods.leaving[slot] || (gates_went && pod == nullptr)) {
      return absl::StrCat("the pod of slot ", slot, " was deleted before its group was scheduled");
    }
  }
  return "";
}

void CreateMembers(Decision* decision, api::GroupStatus* group, const GroupPods& pods,
                   bool may_create) {
  size_t num_missing = 0;
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    if (pods.of_slot[slot] != nullptr) {
      continue;
    }
    ++num_missing;
    if (may_create) {
      decision->Do(CreatePod{group->index, static_cast<int>(slot), group->incarnations[slot],
                             group->revision, /*gated=*/true});
    }
  }
  group->reason = absl::StrCat("creating its pods, ", pods.of_slot.size() - num_missing, " of ",
                               pods.of_slot.size(), " exist");
  if (!decision->in.last_create_error.empty()) {
    absl::StrAppend(&group->reason, ": ", decision->in.last_create_error);
  }
}

void RemoveGates(Decision* decision, const GroupPods& pods) {
  for (const ObservedPod* pod : pods.of_slot) {
    if (pod->gated) {
      decision->Do(RemoveGate{pod->name, pod->uid});
    }
  }
}

void TakeTurn(Decision* decision, api::GroupStatus* group, const GroupPods& pods) {
  const std::string name = decision->GroupName(group->index);
  std::string holder = decision->in.other_gang_in_flight;
  decision->plan.waits_for_turn = !holder.empty();
  for (const api::GroupStatus& other : decision->status.groups) {
    if (other.index != group->index && InFlight(other)) {
      holder = decision->GroupName(other.index);
    }
  }
  if (!holder.empty() && holder != name) {
    group->reason =
        absl::StrCat("waiting for its turn: the pods of ", holder, " are being scheduled");
    decision->WakeAt(decision->in.now + kTurnPoll);
    return;
  }
  // The gates go in the same plan: its status, which takes the turn, is written first or they stay.
  group->gang_since = decision->in.now;
  group->reason = "all pods exist, scheduling begins";
  RemoveGates(decision, pods);
}

void Schedule(Decision* decision, api::GroupStatus* group, const GroupPods& pods) {
  absl::Duration timeout = decision->in.deployment.spec.worker.gang_timeout;
  size_t num_scheduled = 0;
  const ObservedPod* waiting = nullptr;
  for (const ObservedPod* pod : pods.of_slot) {
    if (!pod->node.empty()) {
      ++num_scheduled;
    } else if (waiting == nullptr || waiting->unschedulable.empty()) {
      waiting = pod;
    }
  }
  if (waiting == nullptr) {
    const api::RevisionStatus* revision = FindRevision(decision->status, group->revision);
    if (revision == nullptr) {
      // The status was changed by hand. The present layout comes back by itself, and groups of
      // another revision are drained.
      group->reason = absl::StrCat("the status does not know revision ", group->revision);
      return;
    }
    group->slot_of_rank =
        OrderRanks(pods.of_slot, revision->gpus_per_pod, static_cast<size_t>(revision->num_slots));
    group->phase = kStarting;
    group->reason = "all pods have a node";
    return;
  }
  std::string progress =
      absl::StrCat(num_scheduled, " of ", pods.of_slot.size(), " pods have a node");
  if (!waiting->unschedulable.empty()) {
    absl::StrAppend(&progress, "; scheduler: ", waiting->unschedulable);
  }
  // What there is no room for must not hold up what there may be room for.
  absl::string_view others;
  if (decision->in.gang_turn_wanted && !waiting->unschedulable.empty() &&
      timeout > kMaxBlockedTurn) {
    timeout = kMaxBlockedTurn;
    others = " while another deployment waits for its turn";
  }
  if (decision->in.now - group->gang_since > timeout) {
    GiveUpGang(decision, group,
               absl::StrCat("not scheduled within ", absl::FormatDuration(timeout), others, ", ",
                            progress));
    return;
  }
  RemoveGates(decision, pods);
  group->reason = std::move(progress);
  decision->WakeAt(group->gang_since + timeout + absl::Milliseconds(1));
}

}  // namespace

void RunGang(Decision* decision, api::GroupStatus* group, bool may_create) {
  const GroupPods pods = PodsOf(decision->in, *group);
  if (FindRunning(decision->in, group->index) != nullptr) {
    // It was given up after it had started: its pods are superseded.
    decision->Do(StopGroup{group->index});
    return;
  }
  const bool gates_went = group->gang_since != absl::InfinitePast();
  if (const std::string lost = LostMember(pods, gates_went); !lost.empty()) {
    GiveUpGang(decision, group, lost);
    return;
  }
  if (gates_went) {
    Schedule(decision, group, pods);
    return;
  }
  if (decision->in.now < group->gang_retry_at) {
    decision->WakeAt(group->gang_retry_at);  // the reason says why
    return;
  }
  const bool complete = std::none_of(pods.of_slot.begin(), pods.of_slot.end(),
                                     [](const ObservedPod* pod) { return pod == nullptr; });
  if (complete) {
    TakeTurn(decision, group, pods);
  } else {
    CreateMembers(decision, group, pods, may_create);
  }
}

void GiveUpGang(Decision* decision, api::GroupStatus* group, absl::string_view reason) {
  RestartGang(group);
  absl::Duration delay = kFirstGangRetry;
  for (int i = 0; i < group->gang_attempts && delay < kMaxGangRetry; ++i) {
    delay *= 2;
  }
  delay = std::min(delay, kMaxGangRetry);
  ++group->gang_attempts;
  group->gang_retry_at = decision->in.now + delay;
  group->reason = std::string(reason);
  decision->WakeAt(group->gang_retry_at);
}

void RestartGang(api::GroupStatus* group) {
  for (int& incarnation : group->incarnations) {
    ++incarnation;
  }
  group->slot_of_rank.clear();
  group->ranks.clear();
  group->gang_since = absl::InfinitePast();
  group->gang_retry_at = absl::InfinitePast();
  group->active = false;
  group->phase = kScheduling;
  group->reason = "its pods are made again";
}

std::vector<int> OrderRanks(const std::vector<const ObservedPod*>& of_slot, int ranks_per_pod,
                            size_t num_ranks) {
  std::vector<int> slots(of_slot.size());
  std::iota(slots.begin(), slots.end(), 0);
  std::sort(slots.begin(), slots.end(), [&](int a, int b) {
    return std::tie(of_slot[static_cast<size_t>(a)]->node, a) <
           std::tie(of_slot[static_cast<size_t>(b)]->node, b);
  });
  std::vector<int> slot_of_rank;
  slot_of_rank.reserve(num_ranks);
  for (const int slot : slots) {
    if (slot_of_rank.size() < num_ranks) {
      slot_of_rank.insert(slot_of_rank.end(), static_cast<size_t>(ranks_per_pod), slot);
    }
  }
  return slot_of_rank;
}

std::optional<int> GangInFlight(const api::MoEDeployment& deployment) {
  if (deployment.paused || deployment.deleting) {
    return std::nullopt;
  }
  for (const api::GroupStatus& group : deployment.status.groups) {
    if (InFlight(group)) {
      return group.index;
    }
  }
  return std::nullopt;
}

}  // namespace moe::reconcile
