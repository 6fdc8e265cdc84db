#include "controller/reconcile/groups.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/string_view.h"
#include "controller/reconcile/gang.h"

namespace moe::reconcile {
namespace {

struct Candidate {
  api::GroupStatus* group = nullptr;
  Service service;

  // The one that is missed least comes first.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return std::tuple(a.service.active, a.service.may_return, -a.group->index) <
           std::tuple(b.service.active, b.service.may_return, -b.group->index);
  }
};

void Drain(Decision* decision, api::GroupStatus* group, absl::string_view reason) {
  group->phase = kDraining;
  group->reason = std::string(reason);
  group->draining_since = decision->in.now;
}

void DrainSurplus(Decision* decision, std::vector<Candidate> candidates) {
  const auto replicas = static_cast<size_t>(decision->in.deployment.spec.replicas);
  std::sort(candidates.begin(), candidates.end());
  for (size_t i = 0; i + replicas < candidates.size(); ++i) {
    Drain(decision, candidates[i].group, "there are more groups than replicas");
  }
}

int LowestFreeIndex(const api::MoEDeploymentStatus& status) {
  int index = 0;
  while (FindGroup(status, index) != nullptr) {
    ++index;
  }
  return index;
}

void AddGroup(Decision* decision) {
  api::MoEDeploymentStatus& status = decision->status;
  const api::RevisionStatus* revision = FindRevision(status, status.revision);
  api::GroupStatus group;
  group.index = LowestFreeIndex(status);
  group.revision = status.revision;
  group.phase = kScheduling;
  group.reason = "it was just added";
  group.epoch = status.removed_epoch;
  int incarnation = status.next_incarnation;
  for (const ObservedPod& pod : decision->in.pods) {
    if (pod.group == group.index) {
      incarnation = std::max(incarnation, pod.incarnation + 1);
    }
  }
  const int num_spares = decision->in.deployment.spec.worker.spares;
  const int num_pods = revision->num_slots / revision->gpus_per_pod + num_spares;
  group.incarnations.assign(static_cast<size_t>(num_pods), incarnation);
  const auto place =
      std::find_if(status.groups.begin(), status.groups.end(),
                   [&](const api::GroupStatus& other) { return other.index > group.index; });
  status.groups.insert(place, std::move(group));
}

// A gateway uses groups of its own model only. While earlier gateways may still take requests, the
// last group that can answer those is kept, if its model is not that of another group that serves.
bool GatewaysNeed(const Observed& in, const std::vector<api::GroupStatus>& groups,
                  const Candidate& candidate) {
  const auto digest_of = [&in](int index) {
    const ObservedGroup* running = FindRunning(in, index);
    return running == nullptr ? std::string() : running->model_digest;
  };
  const std::string digest = digest_of(candidate.group->index);
  if (!candidate.service.active || digest.empty() || (in.children_current && in.gateway.rolled)) {
    return false;
  }
  bool other_serves = false;
  for (const api::GroupStatus& group : groups) {
    if (group.index == candidate.group->index || !ServiceOf(in, group).active) {
      continue;
    }
    const std::string other = digest_of(group.index);
    if (other == digest) {
      return false;
    }
    other_serves = other_serves || !other.empty();
  }
  return other_serves;
}

void DrainEarlierRevisions(Decision* decision) {
  const Promise promise = PromiseOf(decision->in.deployment.spec);
  int num_active = 0;
  std::vector<Candidate> earlier;
  for (api::GroupStatus& group : decision->status.groups) {
    if (group.phase == kDraining) {
      continue;
    }
    const Candidate candidate{&group, ServiceOf(decision->in, group)};
    num_active += candidate.service.active ? 1 : 0;
    if (group.revision != decision->status.revision) {
      earlier.push_back(candidate);
    }
  }
  std::sort(earlier.begin(), earlier.end());
  for (const Candidate& candidate : earlier) {
    const int left = num_active - (candidate.service.active ? 1 : 0);
    if (left >= promise.min_active &&
        !GatewaysNeed(decision->in, decision->status.groups, candidate)) {
      num_active = left;
      Drain(decision, candidate.group, "the spec asks for another revision");
    }
  }
}

}  // namespace

void DecideGroups(Decision* decision, bool target_known) {
  api::MoEDeploymentStatus& status = decision->status;
  std::vector<Candidate> present;
  for (api::GroupStatus& group : status.groups) {
    if (group.phase == kDraining) {
      continue;
    }
    const Candidate candidate{&group, ServiceOf(decision->in, group)};
    if (!target_known || group.revision == status.revision) {
      present.push_back(candidate);
    } else if (!candidate.service.active && !candidate.service.may_return) {
      Drain(decision, &group, "the spec asks for another revision");
    }
  }
  DrainSurplus(decision, present);
  if (!target_known) {
    return;
  }
  DrainEarlierRevisions(decision);
  const Promise promise = PromiseOf(decision->in.deployment.spec);
  auto num_present = static_cast<int>(present.size());
  while (num_present < decision->in.deployment.spec.replicas &&
         static_cast<int>(status.groups.size()) < promise.max_groups) {
    AddGroup(decision);
    ++num_present;
  }
}

void DrainAllGroups(Decision* decision) {
  for (api::GroupStatus& group : decision->status.groups) {
    if (group.phase != kDraining) {
      Drain(decision, &group, "the deployment is being deleted");
    }
  }
}

void ReviveFailedGroups(Decision* decision) {
  if (!decision->generation_changed()) {
    return;
  }
  for (api::GroupStatus& group : decision->status.groups) {
    if (group.phase == kFailed) {
      RestartGang(&group);
      group.gang_attempts = 0;
    }
  }
}

}  // namespace moe::reconcile
