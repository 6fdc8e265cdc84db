#include "controller/reconcile/events.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/api/conditions.h"
#include "controller/api/gpu_failures.h"
#include "controller/reconcile/decision.h"
#include "controller/reconcile/status.h"
#include "runtime/slot_ranks.h"

namespace moe::reconcile {
namespace {

class Turns {
 public:
  Turns(const api::MoEDeploymentStatus& old_status, const api::MoEDeploymentStatus& new_status)
      : old_(old_status), new_(new_status) {}

  std::vector<Event> Find() && {
    Failure();
    AvoidedNodes();
    for (const api::GroupStatus& group : new_.groups) {
      const api::GroupStatus* before = FindGroup(old_, group.index);
      if (before == nullptr) {
        Say("GroupAdded", absl::StrCat(Name(group), " of revision ", group.revision, " with ",
                                       group.incarnations.size(), " pods"));
      } else {
        Group(*before, group);
      }
    }
    for (const api::GroupStatus& group : old_.groups) {
      if (FindGroup(new_, group.index) == nullptr) {
        Say("GroupRemoved", absl::StrCat(Name(group), " is gone"));
      }
    }
    if (new_.revision != old_.revision) {
      Say("RevisionChanged", absl::StrCat("groups are to be of revision ", new_.revision,
                                          " with the worker image ", new_.worker_image));
    }
    Layout();
    ForCondition("LayoutDecided", "False", /*warning=*/true);
    ForCondition("PlainReplicasBetter", "True", /*warning=*/false);
    ForCondition("Failed", "True", /*warning=*/true);
    ForCondition("Experimental", "True", /*warning=*/true);
    ForCondition("ModelReady", "False", /*warning=*/true);
    ForCondition("ModelReady", "True", /*warning=*/false);
    GangHeldUp();
    ForCondition("Progressing", "False", /*warning=*/true);
    ForCondition("Ready", "True", /*warning=*/false);
    return std::move(events_);
  }

 private:
  static std::string Name(const api::GroupStatus& group) {
    return absl::StrCat("group ", group.index);
  }

  void Say(std::string reason, std::string message) {
    events_.push_back({false, std::move(reason), std::move(message)});
  }
  void Warn(std::string reason, std::string message) {
    events_.push_back({true, std::move(reason), std::move(message)});
  }

  void Failure() {
    if (!new_.last_failure.has_value() || new_.last_failure == old_.last_failure) {
      return;
    }
    const api::FailureStatus& failure = *new_.last_failure;
    std::string message = absl::StrCat("pod ", failure.pod);
    if (failure.rank >= 0) {
      absl::StrAppend(&message, " (rank ", failure.rank, " of group ", failure.group, ")");
    }
    absl::StrAppend(&message, " on node ", failure.node.empty() ? "(none)" : failure.node);
    if (failure.reason == kGivenUp) {
      absl::StrAppend(&message, " was given up: ", failure.last_log);
    } else {
      absl::StrAppend(&message, " ended: ", failure.reason);
    }
    if (failure.exit_code.has_value()) {
      absl::StrAppend(&message, ", exit code ", *failure.exit_code);
    }
    Warn("WorkerFailed", std::move(message));
  }

  void AvoidedNodes() {
    const std::vector<std::string> before = api::NodesToAvoid(old_);
    for (const std::string& node : api::NodesToAvoid(new_)) {
      if (std::find(before.begin(), before.end(), node) == before.end()) {
        Warn("NodeAvoided",
             absl::StrCat("workers on node ", node, " lost their GPU ", api::kGpuFailuresToAvoid,
                          " times within 24 hours: new ones go elsewhere until these "
                          "are over; drain it and look at its GPUs"));
      }
    }
  }

  void Layout() {
    if (!new_.decision.has_value()) {
      return;
    }
    const api::LayoutDecision before = old_.decision.value_or(api::LayoutDecision());
    const api::LayoutDecision& decision = *new_.decision;
    if (!SameLayout(before.choice, decision.choice)) {
      const bool adopted =
          before.proposed.has_value() && SameLayout(*before.proposed, decision.choice);
      Say(adopted ? "LayoutAdopted" : "LayoutDecided",
          absl::StrCat(DescribeChoice(decision.choice), "; ", decision.because));
    }
    if (decision.proposed.has_value() &&
        (!before.proposed.has_value() || !SameLayout(*before.proposed, *decision.proposed))) {
      Say("LayoutProposed",
          absl::StrCat("with ", decision.proposed_gpus, ": ", DescribeChoice(*decision.proposed),
                       "; nothing changes before it is adopted"));
    }
  }

  void TakeOvers(const api::GroupStatus& before, const api::GroupStatus& group) {
    if (before.slot_of_rank.size() != group.slot_of_rank.size()) {
      return;
    }
    for (size_t rank = 0; rank < group.slot_of_rank.size(); ++rank) {
      const int slot = group.slot_of_rank[rank];
      if (slot != before.slot_of_rank[rank] &&
          runtime::RankOf(group.slot_of_rank, slot) == static_cast<int>(rank)) {
        Say("SpareTookOver",
            absl::StrCat(Name(group), ": the spare pod of slot ", slot, " takes the place of slot ",
                         before.slot_of_rank[rank], " as rank ", rank));
      }
    }
  }

  void Group(const api::GroupStatus& before, const api::GroupStatus& group) {
    if (group.gang_attempts > before.gang_attempts) {
      Warn("GangGivenUp", absl::StrCat(Name(group), ": ", group.reason));
    }
    if (before.slot_of_rank.empty() && !group.slot_of_rank.empty()) {
      Say("GangScheduled", absl::StrCat("all pods of ", Name(group), " have a node"));
    }
    TakeOvers(before, group);
    if (group.phase == before.phase) {
      return;
    }
    if (group.phase == kActive) {
      Say("GroupActive", absl::StrCat(Name(group), " serves in epoch ", group.epoch));
    } else if (group.phase == kRecovering) {
      Warn("GroupRecovering", absl::StrCat(Name(group), ": ", group.reason));
    } else if (group.phase == kFailed) {
      Warn("GroupFailed", absl::StrCat(Name(group), ": ", group.reason));
    } else if (group.phase == kDraining) {
      Say("GroupDraining", absl::StrCat(Name(group), ": ", group.reason));
    } else if (before.phase == kFailed) {
      Say("GroupRestarted", absl::StrCat(Name(group), " begins again"));
    }
  }

  // What someone may have to do something about. Other reasons why a gang has no nodes pass.
  void GangHeldUp() {
    const api::Condition* before = api::FindCondition(old_.conditions, "GangScheduled");
    const api::Condition* after = api::FindCondition(new_.conditions, "GangScheduled");
    const bool held_up = after != nullptr && after->status == "False" &&
                         (after->reason == "CreateFailed" || after->reason == "Unschedulable");
    if (held_up && (before == nullptr || before->reason != after->reason)) {
      Warn(after->reason, after->message);
    }
  }

  // The condition turned to `status`, or to another reason of it.
  void ForCondition(const char* type, const char* status, bool warning) {
    const api::Condition* before = api::FindCondition(old_.conditions, type);
    const api::Condition* after = api::FindCondition(new_.conditions, type);
    if (after == nullptr || after->status != status ||
        (before != nullptr && before->status == status && before->reason == after->reason)) {
      return;
    }
    events_.push_back(
        {warning, after->status == "True" ? std::string(type) : after->reason, after->message});
    if (std::string_view(type) == "Failed") {
      events_.back().reason = after->reason;
    }
  }

  const api::MoEDeploymentStatus& old_;
  const api::MoEDeploymentStatus& new_;
  std::vector<Event> events_;
};

}  // namespace

std::vector<Event> EventsBetween(const api::MoEDeploymentStatus& old_status,
                                 const api::MoEDeploymentStatus& new_status) {
  return Turns(old_status, new_status).Find();
}

}  // namespace moe::reconcile
