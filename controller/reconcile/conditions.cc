#include "controller/reconcile/conditions.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/api/conditions.h"
#include "controller/reconcile/gang.h"

namespace moe::reconcile {
namespace {

constexpr char kTrue[] = "True";
constexpr char kFalse[] = "False";
constexpr char kUnknown[] = "Unknown";
constexpr char kRepairPaused[] =
    "; it is paused: nothing is repaired until the annotation moe-operator.dev/paused is removed";
constexpr char kRepairWaits[] = "; no pod is created before what the spec asks for can be made";

// A condition without its type.
struct Says {
  std::string status;
  std::string reason;
  std::string message;
};

class Conditions {
 public:
  Conditions(Decision* decision, const ModelState& model, const AutoState& automatic,
             const Target& target)
      : decision_(decision),
        in_(decision->in),
        status_(decision->status),
        model_(model),
        automatic_(automatic),
        target_(target) {
    for (const api::GroupStatus& group : status_.groups) {
      if (group.phase != kDraining) {
        staying_.push_back(&group);
      }
    }
    promise_ = PromiseOf(spec());
  }

  void Describe() {
    const Says gang = GangScheduled();
    const Says communicator = CommunicatorReady();
    const Says failed = Failed();
    const Says ready = Ready(failed, gang, communicator);
    Set("GangScheduled", gang);
    Set("CommunicatorReady", communicator);
    Set("Failed", failed);
    Set("ModelReady", {model_.status, model_.reason, model_.message});
    Set("Available", Available());
    Set("Degraded", Degraded());
    Set("Progressing", Progressing(ready));
    Set("UpdateInProgress", UpdateInProgress());
    Set("Ready", ready);
    DescribeExperiment();
    DescribeLayout();
  }

 private:
  const api::MoEDeploymentSpec& spec() const { return in_.deployment.spec; }

  void Set(const char* type, const Says& says) {
    api::Condition condition;
    condition.type = type;
    condition.status = says.status;
    condition.reason = says.reason;
    condition.message = says.message;
    condition.observed_generation = in_.deployment.generation;
    api::SetCondition(&status_.conditions, std::move(condition), in_.now);
  }

  // There only where something experimental is or was asked for.
  void DescribeExperiment() {
    if (!in_.spec_status.ok()) {
      return;
    }
    if (spec().worker.nvlink_across_pods) {
      Set("Experimental",
          {kTrue, "NvlinkAcrossPods",
           "spec.worker.nvlinkAcrossPods puts the workers into the IPC namespace of their nodes, "
           "which the Pod Security level baseline does not admit, and is experimental: "
           "gpusPerPod is the way to use NVLink"});
    } else if (api::FindCondition(status_.conditions, "Experimental") != nullptr) {
      Set("Experimental", {kFalse, "NotUsed", "nothing experimental is asked for"});
    }
  }

  // There only with mode: Auto.
  void DescribeLayout() {
    if (!in_.spec_status.ok()) {
      return;
    }
    if (!spec().parallelism.automatic) {
      api::RemoveCondition(&status_.conditions, "LayoutDecided");
      api::RemoveCondition(&status_.conditions, "PlainReplicasBetter");
      return;
    }
    if (automatic_.decided) {
      Set("LayoutDecided",
          {kTrue, status_.decision->basis, LayoutText(in_.deployment, *status_.decision)});
    } else {
      const bool waits = automatic_.reason == "WaitingForModel" || automatic_.reason == "Paused";
      Set("LayoutDecided", {waits ? kUnknown : kFalse, automatic_.reason, automatic_.message});
    }
    if (automatic_.decided && status_.decision->plain_replicas.has_value()) {
      const PlainText text = PlainReplicasText(*status_.decision);
      Set("PlainReplicasBetter",
          {status_.decision->plain_replicas->better ? kTrue : kFalse, text.reason, text.message});
    } else {
      api::RemoveCondition(&status_.conditions, "PlainReplicasBetter");
    }
  }

  static std::string Name(const api::GroupStatus& group) {
    return absl::StrCat("group ", group.index);
  }

  // Why there is no group at all.
  Says NoGroup() const {
    if (target_.failed) {
      return {kFalse, target_.reason, target_.message};
    }
    if (in_.deployment.deleting) {
      return {kFalse, "Terminating", "the deployment is being deleted"};
    }
    if (target_.known && spec().replicas == 0) {
      return {kFalse, "ScaledToZero", "spec.replicas is 0"};
    }
    if (decision_->frozen()) {
      return {kFalse, "Paused",
              "it is paused: nothing is created until the annotation moe-operator.dev/paused is "
              "removed"};
    }
    if (!target_.known && target_.reason != "WaitingForModel") {
      return {kFalse, target_.reason, target_.message};
    }
    return {kFalse, "WaitingForModel", model_.message};
  }

  Says GangScheduled() const {
    if (staying_.empty()) {
      return NoGroup();
    }
    for (const api::GroupStatus* group : staying_) {
      if (group->phase == kScheduling) {
        return Scheduling(*group);
      }
    }
    for (const api::GroupStatus* group : staying_) {
      if (group->phase == kFailed) {
        return {kFalse, "GroupFailed", absl::StrCat(Name(*group), " has failed and holds no pods")};
      }
      const GroupPods pods = PodsOf(in_, *group);
      for (size_t slot = 0; slot < pods.of_slot.size(); ++slot) {
        const ObservedPod* pod = pods.of_slot[slot];
        if (pod != nullptr && pod->node.empty() && !pods.spare[slot]) {
          return {
              kFalse, "ReplacementPending",
              absl::StrCat("pod ", pod->name, " waits for a node",
                           pod->unschedulable.empty() ? "" : "; scheduler: ", pod->unschedulable)};
        }
      }
    }
    return {kTrue, "AllScheduled", "every worker of every group has a node"};
  }

  std::string WhatAGangNeeds(const api::GroupStatus& group) const {
    if (absl::StrContains(group.reason, kEndedEarly)) {
      return ". status.lastFailure has what it said last";
    }
    return absl::StrCat(
        ". If there is no room for ", group.incarnations.size(),
        " pods, add nodes, or lower parallelism.expert or replicas",
        status_.groups.size() > 1
            ? ", or let a rollout free some first with updateStrategy.maxUnavailable"
            : "");
  }

  Says Scheduling(const api::GroupStatus& group) const {
    const std::string message = absl::StrCat(Name(group), ": ", group.reason);
    if (decision_->frozen()) {
      return {kFalse, "Paused", absl::StrCat(message, kRepairPaused)};
    }
    if (group.gang_retry_at > in_.now) {
      return {
          kFalse, absl::StrContains(group.reason, kEndedEarly) ? "WorkerEnded" : "BackingOff",
          absl::StrCat(message, "; attempt ", group.gang_attempts,
                       " was given up, all of its pods are made again at ",
                       absl::FormatTime("%H:%M:%S UTC", group.gang_retry_at, absl::UTCTimeZone()),
                       WhatAGangNeeds(group))};
    }
    const GroupPods pods = PodsOf(in_, group);
    if (group.gang_since != absl::InfinitePast()) {
      const bool no_room =
          std::any_of(pods.of_slot.begin(), pods.of_slot.end(), [](const ObservedPod* pod) {
            return pod != nullptr && pod->node.empty() && !pod->unschedulable.empty();
          });
      return {kFalse, no_room ? "Unschedulable" : "Scheduling", message};
    }
    const bool complete = std::none_of(pods.of_slot.begin(), pods.of_slot.end(),
                                       [](const ObservedPod* pod) { return pod == nullptr; });
    if (complete) {
      return {kFalse, "WaitingForTurn", message};
    }
    return {kFalse, in_.last_create_error.empty() ? "CreatingPods" : "CreateFailed", message};
  }

  Says CommunicatorReady() const {
    if (staying_.empty()) {
      return NoGroup();
    }
    for (const api::GroupStatus* group : staying_) {
      if (group->active) {
        continue;
      }
      if (group->phase == kScheduling) {
        return {kFalse, "NotScheduled",
                absl::StrCat(Name(*group), " has no node yet for each of its workers")};
      }
      return {kFalse, group->phase,
              absl::StrCat(Name(*group), " is ", group->phase, Detail(*group))};
    }
    return {kTrue, "AllConnected",
            absl::StrCat("all ", staying_.size(), " groups passed their canary exchange")};
  }

  // ": 3 of 64 workers have their weights; pod x waits: ErrImagePull ...; the coordinator's
  // reason".
  std::string Detail(const api::GroupStatus& group) const {
    std::string detail;
    const ObservedGroup* running = FindRunning(in_, group.index);
    if (running != nullptr && group.phase == kLoading) {
      const auto num_loaded =
          std::count(running->rank_loaded.begin(), running->rank_loaded.end(), true);
      absl::StrAppend(&detail, ": ", num_loaded, " of ", group.slot_of_rank.size(),
                      " workers have loaded their weights");
    }
    for (const ObservedPod* pod : PodsOf(in_, group).of_slot) {
      if (pod != nullptr && !pod->waiting_reason.empty()) {
        absl::StrAppend(&detail, detail.empty() ? ": " : "; ", "pod ", pod->name,
                        " waits: ", pod->waiting_reason, " ", pod->waiting_message);
        break;
      }
    }
    if (!group.reason.empty()) {
      absl::StrAppend(&detail, detail.empty() ? ": " : "; ", group.reason);
    }
    return detail;
  }

  const api::GroupStatus* FindPhase(const char* phase) const {
    const auto found =
        std::find_if(staying_.begin(), staying_.end(),
                     [&](const api::GroupStatus* group) { return group->phase == phase; });
    return found == staying_.end() ? nullptr : *found;
  }

  Says Failed() const {
    if (target_.failed) {
      return {kTrue, target_.reason, target_.message};
    }
    if (const api::GroupStatus* group = FindPhase(kFailed); group != nullptr) {
      return {
          kTrue, "GroupFailed",
          absl::StrCat(Name(*group), " has failed and is not started again before the spec changes",
                       Detail(*group), "; status.lastFailure has the last lines of its log")};
    }
    return {kFalse, "NoFailure", "nothing has failed for good"};
  }

  std::string GatewayProblem() const {
    if (!in_.children_status.ok()) {
      return absl::StrCat("; its objects could not be applied: ", in_.children_status.message());
    }
    return in_.gateway.problem.empty() ? "" : absl::StrCat("; ", in_.gateway.problem);
  }

  Says GatewayNotReady() const {
    return {kFalse, "GatewayNotReady",
            absl::StrCat(in_.gateway.ready_replicas, " of ", spec().gateway.replicas,
                         " gateways are ready", GatewayProblem())};
  }

  Says Available() const {
    if (staying_.empty() && status_.ready_replicas == 0) {
      return NoGroup();
    }
    const int promised = std::max(1, promise_.min_active);
    if (status_.ready_replicas < promised) {
      return {
          kFalse, "TooFewGroups",
          absl::StrCat(status_.ready_replicas, " groups are active, ", promised, " are promised")};
    }
    if (in_.gateway.ready_replicas == 0) {
      return GatewayNotReady();
    }
    return {kTrue, "MinimumGroupsActive",
            absl::StrCat(status_.ready_replicas, " of ", spec().replicas, " groups are active")};
  }

  Says Degraded() const {
    const std::string suffix = decision_->frozen() ? kRepairPaused
                               : !target_.known    ? kRepairWaits
                                                   : "";
    for (const char* phase : {kFailed, kRecovering}) {
      if (const api::GroupStatus* group = FindPhase(phase); group != nullptr) {
        return {kTrue, absl::StrCat("Group", phase),
                absl::StrCat(Name(*group), " is ", phase, Detail(*group), suffix)};
      }
    }
    if (!in_.children_status.ok()) {
      return {kTrue, "ChildrenNotApplied",
              absl::StrCat("the gateway, its Service or a budget could not be applied: ",
                           in_.children_status.message(), suffix)};
    }
    const int ready = in_.gateway.ready_replicas;
    if (ready > 0 && ready < in_.gateway.replicas) {
      Says says = GatewayNotReady();
      says.status = kTrue;
      return says;
    }
    return {kFalse, "AsExpected", "nothing is lost"};
  }

  bool RolloutComplete() const {
    return target_.known && static_cast<int>(status_.groups.size()) == spec().replicas &&
           std::all_of(status_.groups.begin(), status_.groups.end(),
                       [&](const api::GroupStatus& group) {
                         return group.active && group.phase != kDraining &&
                                group.revision == status_.revision;
                       });
  }

  bool GatewaysReady() const {
    return in_.gateway.exists && in_.gateway.ready_replicas >= spec().gateway.replicas;
  }

  Says RollingOut() const {
    return {kFalse, "RollingOut",
            absl::StrCat(status_.updated_replicas, " of ", spec().replicas,
                         " groups are of the present revision, and there are ",
                         status_.groups.size(), " groups in all")};
  }

  // True as long as there is a group of an earlier revision, one that drains too.
  Says UpdateInProgress() const {
    const auto num_earlier = std::count_if(
        status_.groups.begin(), status_.groups.end(),
        [&](const api::GroupStatus& group) { return group.revision != status_.revision; });
    if (num_earlier == 0) {
      return {kFalse, "UpToDate", "no group is of an earlier revision"};
    }
    return {kTrue, "RollingOut",
            absl::StrCat(num_earlier, " of ", status_.groups.size(),
                         " groups are of an earlier revision than ", status_.revision)};
  }

  Says Ready(const Says& failed, const Says& gang, const Says& communicator) const {
    if (in_.deployment.deleting) {
      return {kFalse, "Terminating", "groups finish what they compute and are removed"};
    }
    if (failed.status == kTrue) {
      return {kFalse, failed.reason, failed.message};
    }
    if (model_.status != kTrue) {
      return {kFalse, model_.reason, model_.message};
    }
    for (const Says* says : {&gang, &communicator}) {
      if (says->status != kTrue) {
        return *says;
      }
    }
    if (!RolloutComplete()) {
      return RollingOut();
    }
    if (!GatewaysReady()) {
      return GatewayNotReady();
    }
    return {kTrue, "AllGroupsActive",
            absl::StrCat("all ", spec().replicas, " groups are active and all gateways answer")};
  }

  // Whether anything moved towards what the spec asks for.
  bool Moved() const {
    const api::MoEDeploymentStatus& old = decision_->old;
    const api::Condition* before = api::FindCondition(old.conditions, "Progressing");
    if (before == nullptr || before->reason == "Complete" || before->reason == "Paused" ||
        decision_->generation_changed() || status_.model != old.model ||
        status_.ready_replicas > old.ready_replicas || status_.groups.size() != old.groups.size()) {
      return true;
    }
    return std::any_of(status_.groups.begin(), status_.groups.end(), [&](const auto& group) {
      const api::GroupStatus* was = FindGroup(old, group.index);
      return was == nullptr || (was->slot_of_rank.empty() && !group.slot_of_rank.empty());
    });
  }

  Says Progressing(const Says& ready) {
    const bool scaled_to_zero = target_.known && spec().replicas == 0 && status_.groups.empty();
    if (scaled_to_zero || (RolloutComplete() && GatewaysReady())) {
      return {kTrue, "Complete", "everything is as the spec asks"};
    }
    if (decision_->frozen()) {
      return {
          kUnknown, "Paused",
          "it is paused: nothing changes until the annotation moe-operator.dev/paused is removed"};
    }
    if (Moved()) {
      status_.progress_at = in_.now;
    }
    const absl::Time deadline = status_.progress_at + spec().progress_deadline;
    if (in_.now < deadline) {
      decision_->WakeAt(deadline);
      return {kTrue, ready.reason, ready.message};
    }
    return {kFalse, "ProgressDeadlineExceeded",
            absl::StrCat("nothing moved for ", absl::FormatDuration(spec().progress_deadline),
                         "; it is still being tried. Ready says: ", ready.message)};
  }

  Decision* decision_;
  const Observed& in_;
  api::MoEDeploymentStatus& status_;
  const ModelState& model_;
  const AutoState& automatic_;
  const Target& target_;
  std::vector<const api::GroupStatus*> staying_;
  Promise promise_;
};

}  // namespace

void DescribeConditions(Decision* decision, const ModelState& model, const AutoState& automatic,
                        const Target& target) {
  Conditions(decision, model, automatic, target).Describe();
}

}  // namespace moe::reconcile
