#include "controller/reconcile/status.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/api/gpu_failures.h"
#include "controller/api/status_json.h"
#include "controller/reconcile/drain.h"
#include "runtime/exit_codes.h"
#include "runtime/slot_ranks.h"

namespace moe::reconcile {
namespace {

using Phase = ObservedGroup::Phase;

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kStarting:
      return kStarting;
    case Phase::kLoading:
      return kLoading;
    case Phase::kConnecting:
      return kConnecting;
    case Phase::kActive:
      return kActive;
    case Phase::kRecovering:
      return kRecovering;
    case Phase::kFailed:
    case Phase::kStopping:  // not asked for: see DescribeGroups
      break;
  }
  return kFailed;
}

// A pod that failed its group.
struct FailedPod {
  const ObservedPod* pod = nullptr;
  std::string given_up;  // why, by the coordinator; empty: it ended
};

api::FailureStatus FailureOf(const Decision& decision, const FailedPod& failed) {
  const ObservedPod& pod = *failed.pod;
  const api::GroupStatus* group = FindGroup(decision.old, pod.group);
  api::FailureStatus failure;
  failure.pod = pod.name;
  failure.group = pod.group;
  failure.slot = pod.slot;
  failure.rank = group == nullptr ? -1 : runtime::RankOf(group->slot_of_rank, pod.slot);
  failure.node = pod.node;
  failure.exit_code = pod.exit_code;
  failure.reason = failed.given_up.empty() ? pod.exit_reason : kGivenUp;
  if (failure.reason.empty()) {
    failure.reason = pod.phase == ObservedPod::Phase::kSucceeded ? "Completed" : "Error";
  }
  const std::string& log = failed.given_up.empty() ? pod.termination_message : failed.given_up;
  failure.last_log = log.substr(log.size() - std::min(log.size(), api::kMaxLastLogBytes));
  failure.at = decision.in.now;
  return failure;
}

// The experts of a rank: contiguous blocks, as the coordinator places them.
std::string ExpertsText(const api::RevisionStatus& revision, size_t rank) {
  const auto num_slots = static_cast<size_t>(revision.num_slots);
  const auto num_experts = static_cast<size_t>(revision.num_experts);
  const auto first_of = [&](size_t slot) {
    return (slot * num_experts + num_slots - 1) / num_slots;
  };
  const size_t first = first_of(rank);
  const size_t last = first_of(rank + 1) - 1;
  return first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
}

const char* RankPhase(const ObservedPod* pod, const ObservedGroup& running, size_t rank) {
  if (pod == nullptr || pod->node.empty()) {
    return "Pending";
  }
  if (HasEnded(*pod)) {
    return kFailed;
  }
  if (pod->phase == ObservedPod::Phase::kPending) {
    return kStarting;
  }
  if (running.phase == Phase::kActive) {
    return kActive;
  }
  const bool loaded = rank < running.rank_loaded.size() && running.rank_loaded[rank];
  return loaded ? "Joining" : kLoading;
}

void DescribeRanks(const Decision& decision, const ObservedGroup& running, const GroupPods& pods,
                   api::GroupStatus* group) {
  const api::RevisionStatus* revision = FindRevision(decision.status, group->revision);
  group->ranks.clear();
  group->ranks_left_out = 0;
  if (revision == nullptr ||
      static_cast<size_t>(revision->num_slots) != group->slot_of_rank.size()) {
    return;
  }
  for (size_t rank = 0; rank < group->slot_of_rank.size(); ++rank) {
    const ObservedPod* pod = PodAt(pods, group->slot_of_rank[rank]);
    api::RankStatus& entry = group->ranks.emplace_back();
    entry.rank = static_cast<int>(rank);
    entry.experts = ExpertsText(*revision, rank);
    entry.phase = RankPhase(pod, running, rank);
    if (revision->gpus_per_pod > 1) {
      entry.process = static_cast<int>(rank) % revision->gpus_per_pod;
    }
    if (pod != nullptr) {
      entry.pod = pod->name;
      entry.node = pod->node;
    }
  }
}

std::optional<int> ReadySpares(const GroupPods& pods) {
  std::optional<int> num_ready;
  for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
    if (pods.spare[slot]) {
      const ObservedPod* pod = pods.of_slot[slot];
      const bool ready = pod != nullptr && pod->phase == ObservedPod::Phase::kRunning;
      num_ready = num_ready.value_or(0) + (ready ? 1 : 0);
    }
  }
  return num_ready;
}

// The group that comes first in the timeline of this revision; nullptr: none was scheduled.
const api::GroupStatus* FirstOfRevision(const api::MoEDeploymentStatus& status) {
  for (const api::GroupStatus& group : status.groups) {
    if (group.revision == status.revision && !group.slot_of_rank.empty() &&
        group.phase != kDraining) {
      return &group;
    }
  }
  return nullptr;
}

void DescribeStartup(Decision* decision) {
  api::MoEDeploymentStatus& status = decision->status;
  const absl::Time now = decision->in.now;
  if (status.revision != decision->old.revision || !status.startup.has_value()) {
    status.startup = api::StartupStatus();
    status.startup->started = now;
  }
  const api::GroupStatus* group = FirstOfRevision(status);
  if (group == nullptr) {
    return;
  }
  const ObservedGroup* running = FindRunning(decision->in, group->index);
  const GroupPods pods = PodsOf(decision->in, *group);
  const bool pulled =
      std::all_of(group->slot_of_rank.begin(), group->slot_of_rank.end(), [&](int slot) {
        const ObservedPod* pod = PodAt(pods, slot);
        return pod != nullptr && pod->phase == ObservedPod::Phase::kRunning;
      });
  const bool loaded = running != nullptr && !running->rank_loaded.empty() &&
                      std::all_of(running->rank_loaded.begin(), running->rank_loaded.end(),
                                  [](bool rank) { return rank; });
  const bool spoke = running != nullptr && running->generated_tokens > 0;
  // A step that was not seen was reached with the next one.
  const std::vector<std::pair<absl::Time*, bool>> steps = {
      {&status.startup->first_token, spoke},
      {&status.startup->communicator, group->active},
      {&status.startup->weights_loaded, loaded},
      {&status.startup->images_pulled, pulled},
      {&status.startup->scheduled, true}};
  bool reached = false;
  for (const auto& [time, now_reached] : steps) {
    reached = reached || now_reached || *time != absl::InfinitePast();
    if (reached && *time == absl::InfinitePast()) {
      *time = now;
    }
  }
}

void DescribeLoad(Decision* decision) {
  const std::optional<api::ExpertLoadStatus>& load = decision->in.expert_load;
  std::optional<api::ExpertLoadStatus>& written = decision->status.expert_load;
  if (!load.has_value()) {
    return;
  }
  const absl::Time now = decision->in.now;
  if (!written.has_value() ||
      (written->tokens != load->tokens && now - written->at >= kExpertLoadInterval)) {
    written = load;
    written->at = now;
  }
  // Tokens alone wake nobody.
  const absl::Time due = written->at + kExpertLoadInterval;
  decision->WakeAt(due > now ? due : now + kExpertLoadInterval);
}

std::string UrlOf(const api::MoEDeployment& deployment) {
  const std::optional<api::IngressSpec>& ingress = deployment.spec.ingress;
  if (ingress.has_value() && !ingress->host.empty()) {
    return absl::StrCat(ingress->tls_secret_name.empty() ? "http://" : "https://", ingress->host);
  }
  return absl::StrCat("http://", deployment.name, "-gateway.", deployment.ns, ".svc");
}

}  // namespace

void RecordFailure(Decision* decision) {
  std::vector<FailedPod> failed;
  for (const ObservedPod& pod : decision->in.pods) {
    if (pod.terminating) {
      continue;
    }
    if (HasEnded(pod)) {
      failed.push_back({&pod, ""});
      continue;
    }
    // A process that hangs is deleted before it ends, and has no last words of its own.
    const ObservedGroup* running = FindRunning(decision->in, pod.group);
    const UnwantedPod* unwanted = running == nullptr ? nullptr : FindUnwanted(*running, pod);
    if (unwanted != nullptr && !unwanted->reason.empty()) {
      failed.push_back({&pod, unwanted->reason});
    }
  }
  if (failed.empty()) {
    return;
  }
  const std::optional<api::FailureStatus>& before = decision->old.last_failure;
  if (before.has_value() && std::any_of(failed.begin(), failed.end(), [&](const FailedPod& entry) {
        return entry.pod->name == before->pod;
      })) {
    return;  // recorded; it is deleted next
  }
  const FailedPod& first = *std::min_element(
      failed.begin(), failed.end(),
      [](const FailedPod& a, const FailedPod& b) { return a.pod->name < b.pod->name; });
  decision->status.last_failure = FailureOf(*decision, first);
}

void RecordGpuFailures(Decision* decision) {
  std::vector<api::GpuFailureStatus>& failures = decision->status.gpu_failures;
  std::erase_if(failures, [now = decision->in.now](const api::GpuFailureStatus& failure) {
    return now - failure.at > api::kGpuFailureMemory;
  });
  for (const ObservedPod& pod : decision->in.pods) {
    if (pod.exit_code != runtime::kGpuLostExitCode || pod.node.empty() ||
        std::any_of(failures.begin(), failures.end(), [&](const api::GpuFailureStatus& failure) {
          return failure.pod == pod.name;
        })) {
      continue;
    }
    if (failures.size() == api::kMaxGpuFailures) {
      failures.erase(failures.begin());
    }
    failures.push_back({.pod = pod.name, .node = pod.node, .at = decision->in.now});
  }
}

void DescribeGroups(Decision* decision) {
  for (api::GroupStatus& group : decision->status.groups) {
    const ObservedGroup* running = FindRunning(decision->in, group.index);
    if (running != nullptr) {
      group.epoch = std::max(group.epoch, running->epoch);
    }
    if (group.phase == kDraining) {
      group.active = running == nullptr
                         ? CanAdopt(*decision, group)
                         : running->phase == Phase::kActive || IsAdopted(group, *running);
      continue;
    }
    if (group.slot_of_rank.empty() || group.phase == kFailed) {
      group.active = false;
      group.ranks.clear();
      group.ranks_left_out = 0;
      group.ready_spares.reset();
      continue;
    }
    // A controller that takes over keeps what was said until it knows better.
    const bool adopting = group.active && ServiceOf(decision->in, group).may_return &&
                          (running == nullptr || running->phase == Phase::kStarting);
    if (running == nullptr || adopting || running->phase == Phase::kStopping) {
      continue;
    }
    group.phase = PhaseName(running->phase);
    group.reason = running->reason;
    group.active = running->phase == Phase::kActive;
    if (group.active) {
      group.gang_attempts = 0;
    }
    const GroupPods pods = PodsOf(decision->in, group);
    DescribeRanks(*decision, *running, pods, &group);
    group.ready_spares = ReadySpares(pods);
  }
}

void DescribeDeployment(Decision* decision) {
  api::MoEDeploymentStatus& status = decision->status;
  const api::MoEDeployment& deployment = decision->in.deployment;
  status.replicas = static_cast<int>(status.groups.size());
  status.ready_replicas = 0;
  status.updated_replicas = 0;
  int num_ready_pods = 0;
  for (const api::GroupStatus& group : status.groups) {
    const bool present = group.phase != kDraining && group.revision == status.revision;
    status.ready_replicas += group.active && group.phase != kDraining ? 1 : 0;
    status.updated_replicas += present ? 1 : 0;
    if (!present) {
      continue;
    }
    const GroupPods pods = PodsOf(decision->in, group);
    for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
      const ObservedPod* pod = pods.of_slot[slot];
      num_ready_pods += pod != nullptr && pod->ready && !pods.spare[slot] ? 1 : 0;
    }
  }
  status.epoch = status.groups.empty() ? 0 : status.groups.front().epoch;
  status.hpa_pod_selector =
      absl::StrCat("moe-operator.dev/deployment=", deployment.name,
                   ",app.kubernetes.io/component=worker,moe-operator.dev/slot=0");
  if (!decision->in.spec_status.ok()) {
    return;  // what the spec says is kept as it was
  }
  status.url = UrlOf(deployment);
  if (const api::RevisionStatus* revision = FindRevision(status, status.revision)) {
    const int replicas = deployment.spec.replicas;
    status.strategy = api::StrategyString(revision->num_slots, deployment.spec.parallelism.tensor,
                                          deployment.spec.parallelism.pipeline, replicas);
    status.workers =
        absl::StrCat(num_ready_pods * revision->gpus_per_pod, "/", revision->num_slots * replicas);
    DescribeStartup(decision);
  }
  DescribeLoad(decision);
}

}  // namespace moe::reconcile
