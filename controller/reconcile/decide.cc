// DecidePlan: who owns the deployment, then each part in turn, then the status that comes of it.
#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "controller/api/status_json.h"
#include "controller/reconcile/conditions.h"
#include "controller/reconcile/decision.h"
#include "controller/reconcile/drain.h"
#include "controller/reconcile/events.h"
#include "controller/reconcile/gang.h"
#include "controller/reconcile/groups.h"
#include "controller/reconcile/inspection.h"
#include "controller/reconcile/layout_decision.h"
#include "controller/reconcile/plan.h"
#include "controller/reconcile/revision.h"
#include "controller/reconcile/slots.h"
#include "controller/reconcile/status.h"
#include "runtime/slot_ranks.h"

namespace moe::reconcile {
namespace {

Plan ClaimTerm(const Observed& observed) {
  Plan plan;
  api::MoEDeploymentStatus status = observed.deployment.status;
  ++status.term;
  plan.actions.emplace_back(WriteStatus{std::move(status)});
  return plan;
}

// False for a status that somebody has changed by hand.
bool HasEveryRank(const api::MoEDeploymentStatus& status, const api::GroupStatus& group) {
  const std::vector<int>& slot_of_rank = group.slot_of_rank;
  const size_t num_slots = group.incarnations.size();
  const auto ranks_per_pod = static_cast<size_t>(runtime::RanksPerPod(slot_of_rank));
  const api::RevisionStatus* revision = FindRevision(status, group.revision);
  if (revision != nullptr && !slot_of_rank.empty() &&
      (slot_of_rank.size() != static_cast<size_t>(revision->num_slots) ||
       ranks_per_pod != static_cast<size_t>(revision->gpus_per_pod))) {
    return false;
  }
  std::vector<bool> seen(num_slots, false);
  for (size_t rank = 0; rank < slot_of_rank.size(); ++rank) {
    const int slot = slot_of_rank[rank];
    if (rank % ranks_per_pod != 0) {
      if (slot != slot_of_rank[rank - 1]) {
        return false;
      }
    } else if (slot < 0 || static_cast<size_t>(slot) >= num_slots ||
               seen[static_cast<size_t>(slot)]) {
      return false;
    } else {
      seen[static_cast<size_t>(slot)] = true;
    }
  }
  return true;
}

// Goes on with a group as far as what was observed of its claims allows. `claimed` is of the status
// that was observed, `group` its successor.
void RunGroup(Decision* decision, const api::GroupStatus& claimed, api::GroupStatus* group,
              bool target_known) {
  if (claimed.phase == kDraining) {
    if (RunDrain(decision, claimed)) {
      ForgetGroup(decision, claimed.index);
    }
    return;
  }
  // What was just decided is acted on once it is durable.
  if (group->phase != claimed.phase) {
    return;
  }
  if (!HasEveryRank(decision->old, claimed)) {
    RestartGang(group);
    return;
  }
  const bool may_create = target_known && group->revision == decision->status.revision &&
                          group->revision == decision->old.revision && !decision->deleting();
  if (claimed.phase == kFailed) {
    if (!decision->frozen()) {
      RunFailedGroup(decision, claimed);
    }
  } else if (!claimed.slot_of_rank.empty()) {
    RunStartedGroup(decision, group, may_create);
  } else if (!decision->frozen()) {
    RunGang(decision, group, may_create);
  }
}

void RunGroups(Decision* decision, bool target_known) {
  for (const api::GroupStatus& claimed : decision->old.groups) {
    for (api::GroupStatus& group : decision->status.groups) {
      if (group.index == claimed.index) {
        RunGroup(decision, claimed, &group, target_known);
        break;
      }
    }
  }
  for (const ObservedGroup& running : decision->in.groups) {
    if (FindGroup(decision->old, running.index) == nullptr &&
        running.phase != ObservedGroup::Phase::kStopping) {
      decision->Do(StopGroup{running.index});
    }
  }
  if (!decision->frozen()) {
    RemoveUnclaimedPods(decision);
  }
}

// A plan ends with its first action that fails, so what is most likely to (quota) comes last, after
// what frees room, repairs and stops.
struct Precedence {
  int operator()(const WriteStatus&) const { return 0; }
  int operator()(const Event&) const { return 1; }
  int operator()(const ApplyChildren&) const { return 2; }
  int operator()(const StartGroup&) const { return 3; }
  int operator()(const DrainGroup&) const { return 3; }
  int operator()(const StopGroup&) const { return 3; }
  int operator()(const DeletePod&) const { return 4; }
  int operator()(const RemoveGate&) const { return 5; }
  int operator()(const CreatePod& create) const { return create.gated ? 8 : 6; }
  int operator()(const CreateInspection&) const { return 7; }
  int operator()(const DeleteInspection&) const { return 7; }
};

Plan Finish(Decision decision) {
  Plan plan = std::move(decision.plan);
  // Equal as objects is what counts, and takes longer to find out.
  if (decision.status != decision.old && !api::SameStatus(decision.status, decision.old)) {
    plan.actions.emplace_back(WriteStatus{decision.status});
  }
  for (Event& event : EventsBetween(decision.old, decision.status)) {
    plan.actions.emplace_back(std::move(event));
  }
  std::stable_sort(plan.actions.begin(), plan.actions.end(), [](const Action& a, const Action& b) {
    return std::visit(Precedence(), a) < std::visit(Precedence(), b);
  });
  return plan;
}

}  // namespace

Plan DecidePlan(const Observed& observed) {
  if (observed.term == 0) {
    return ClaimTerm(observed);
  }
  if (observed.deployment.status.term != observed.term) {
    return {};  // another controller has it
  }
  Decision decision(observed);
  RecordFailure(&decision);
  RecordGpuFailures(&decision);
  ModelState model = {"Unknown", "InvalidSpec", "the spec can't be understood"};
  AutoState automatic;
  if (observed.spec_status.ok()) {
    model = DecideModel(&decision);
    automatic = DecideLayout(&decision);
  }
  const Target target = DecideTarget(&decision, automatic);
  if (decision.deleting()) {
    DrainAllGroups(&decision);
  } else if (!decision.frozen() && observed.spec_status.ok()) {
    ReviveFailedGroups(&decision);
    DecideGroups(&decision, target.known);
  }
  RunGroups(&decision, target.known);
  const bool may_apply = !decision.frozen() && !decision.deleting() && target.known;
  if (may_apply && !observed.children_current) {
    decision.Do(ApplyChildren{});
  }
  ForgetRevisions(&decision);
  DescribeGroups(&decision);
  DescribeDeployment(&decision);
  DescribeConditions(&decision, model, automatic, target);
  decision.status.observed_generation = observed.deployment.generation;
  return Finish(std::move(decision));
}

}  // namespace moe::reconcile
