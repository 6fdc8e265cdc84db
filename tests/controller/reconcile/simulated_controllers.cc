// The controllers of the simulated cluster: who observes, decides and carries out plans.
#include <algorithm>
#include <cstddef>
#include <variant>

#include "absl/strings/str_cat.h"
#include "controller/api/status_json.h"
#include "controller/reconcile/decision.h"
#include "runtime/slot_ranks.h"
#include "tests/controller/reconcile/gpu_scene.h"
#include "tests/controller/reconcile/simulated_cluster.h"

namespace moe::reconcile {

using Phase = ObservedGroup::Phase;

// ---- Observing and deciding ----

Observed SimulatedCluster::Observe(const Controller& controller) const {
  Observed observed;
  observed.now = now_;
  observed.deployment = controller.deployment;
  observed.term = controller.term;
  observed.worker_image = "worker:1";
  observed.gateway_image = "gateway:1";
  observed.pods = controller.pods;
  for (const auto& [index, group] : controller.groups) {
    observed.groups.push_back(group.seen);
  }
  observed.inspection = inspection_;
  if (options_.automatic) {
    const auto num_up =
        std::count_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return node.up; });
    observed.gpus = H100Nodes(static_cast<int>(num_up), options_.gpus_per_node);
  }
  observed.gateway = {children_generation_ > 0, object_.spec.gateway.replicas, gateways_ready_,
                      gateways_ready_ == object_.spec.gateway.replicas, ""};
  observed.children_current = children_generation_ == object_.generation;
  observed.last_create_error = controller.last_create_error;
  // Somebody else wants the turn now and then.
  observed.gang_turn_wanted = absl::ToUnixSeconds(now_) / 20 % 2 == 1;
  return observed;
}

void SimulatedCluster::Refresh(Controller* controller) {
  controller->deployment = object_;
  controller->must_refresh = false;
}

void SimulatedCluster::RaiseUsed(Controller* controller, int index, int slot, int incarnation) {
  const auto group = controller->groups.find(index);
  const auto at = static_cast<size_t>(slot);
  if (group != controller->groups.end() && at < group->second.seen.used_incarnations.size()) {
    int& used = group->second.seen.used_incarnations[at];
    used = std::max(used, incarnation);
  }
}

void SimulatedCluster::SeeCreated(Controller* controller, const CreatePod& create) {
  for (const auto& [name, pod] : pods_) {
    const bool is_it = pod.seen.group == create.group && pod.seen.slot == create.slot &&
                       pod.seen.incarnation == create.incarnation;
    const bool seen =
        std::any_of(controller->pods.begin(), controller->pods.end(),
                    [&](const ObservedPod& other) { return other.uid == pod.seen.uid; });
    if (is_it && !seen) {
      controller->pods.push_back(pod.seen);
      RaiseUsed(controller, create.group, create.slot, create.incarnation);
    }
  }
}

void SimulatedCluster::RefreshPods(Controller* controller) {
  controller->pods.clear();
  for (const auto& [name, pod] : pods_) {
    controller->pods.push_back(pod.seen);
  }
  for (; controller->num_watched < created_.size(); ++controller->num_watched) {
    const ObservedPod& pod = created_[controller->num_watched];
    RaiseUsed(controller, pod.group, pod.slot, pod.incarnation);
  }
}

void SimulatedCluster::Reconcile(Controller* controller) {
  if (!controller->plan.empty()) {
    return;
  }
  // Caches are filled by watches, each at its own pace.
  // After an action of unknown outcome they catch up before a pod has lived and died.
  const bool catch_up = controller->must_refresh || controller->term == 0;
  if (controller->must_refresh || !OneIn(3)) {
    Refresh(controller);
  }
  if (catch_up || !OneIn(3)) {
    RefreshPods(controller);
  }
  const Observed observed = Observe(*controller);
  const Plan plan = DecidePlan(observed);
  CheckPlan(observed, plan);
  controller->plan.assign(plan.actions.begin(), plan.actions.end());
  controller->plan_version = controller->deployment.resource_version;
}

void SimulatedCluster::CheckPlan(const Observed& observed, const Plan& plan) {
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    if (const auto* remove = std::get_if<RemoveGate>(&plan.actions[i]); remove != nullptr) {
      CheckGang(observed, *remove);
    }
    const auto* write = std::get_if<WriteStatus>(&plan.actions[i]);
    if (write == nullptr) {
      continue;
    }
    if (i != 0) {
      Broken("a status is not written first");
    }
    const Promise promise = PromiseOf(observed.deployment.spec);
    const std::vector<api::GroupStatus>& before = observed.deployment.status.groups;
    const std::vector<api::GroupStatus>& after = write->status.groups;
    bool drains = false;
    int num_active = 0;
    for (const api::GroupStatus& group : after) {
      const ObservedGroup* running = FindRunning(observed, group.index);
      const bool active = running != nullptr && running->phase == Phase::kActive;
      const api::GroupStatus* was = FindGroup(observed.deployment.status, group.index);
      const bool drained = group.phase == kDraining;
      drains = drains || (active && drained && was != nullptr && was->phase != kDraining);
      num_active += active && !drained ? 1 : 0;
      const bool ran = was != nullptr && !was->slot_of_rank.empty();
      if (active && !drained && ran && group.slot_of_rank.empty()) {
        Broken(absl::StrCat("group ", group.index, " is given up and serves"));
      }
    }
    if (drains && !observed.deployment.deleting && num_active < promise.min_active) {
      Broken(absl::StrCat("it drains down to ", num_active, " groups, ", promise.min_active,
                          " are promised"));
    }
    if (after.size() > before.size() && static_cast<int>(after.size()) > promise.max_groups) {
      Broken(
          absl::StrCat("it makes ", after.size(), " groups, ", promise.max_groups, " are allowed"));
    }
  }
}

void SimulatedCluster::CheckGang(const Observed& observed, const RemoveGate& remove) {
  for (const api::GroupStatus& group : observed.deployment.status.groups) {
    const std::vector<const ObservedPod*> of_slot = PodsOf(observed, group).of_slot;
    const bool has_it = std::any_of(of_slot.begin(), of_slot.end(), [&](const ObservedPod* pod) {
      return pod != nullptr && pod->uid == remove.uid;
    });
    if (has_it && std::find(of_slot.begin(), of_slot.end(), nullptr) != of_slot.end()) {
      Broken(absl::StrCat("the gate of ", remove.pod, " goes before all of its group exist"));
    }
  }
}

// ---- Carrying out ----

void SimulatedCluster::Continue(Controller* controller, bool faults) {
  if (controller->plan.empty()) {
    return;
  }
  const Action action = controller->plan.front();
  controller->plan.pop_front();
  bool done = false;
  if (!faults || !OneIn(20)) {
    done = std::visit([&](const auto& a) { return Do(controller, a); }, action);
    if (faults && OneIn(20)) {
      done = false;  // the reply is lost
    }
  }
  if (const auto* create = std::get_if<CreatePod>(&action); create != nullptr && done) {
    SeeCreated(controller, *create);
  }
  if (!done && !std::holds_alternative<Event>(action) &&
      !std::holds_alternative<ApplyChildren>(action)) {
    controller->plan.clear();
    controller->must_refresh = true;
  }
}

bool SimulatedCluster::Do(Controller* controller, const WriteStatus& write) {
  if (controller->plan_version != object_.resource_version) {
    return false;
  }
  if (write.status.term < object_.status.term) {
    Broken("a term went back");
  }
  CheckDecision(write.status);
  for (const api::GroupStatus& group : write.status.groups) {
    const api::GroupStatus* before = FindGroup(object_.status, group.index);
    if (before == nullptr) {
      continue;
    }
    for (size_t slot = 0; slot < group.incarnations.size(); ++slot) {
      if (group.incarnations[slot] < before->incarnations[slot]) {
        Broken("an incarnation went back");
      }
    }
    if (group.epoch < before->epoch) {
      Broken("an epoch went back");
    }
  }
  const absl::StatusOr<api::MoEDeploymentStatus> read =
      api::StatusFromJson(api::StatusToJson(write.status));
  if (!read.ok()) {
    Broken(read.status().ToString());
    return false;
  }
  if (read->term > object_.status.term) {
    controller->term = read->term;
  }
  object_.status = *read;
  Touch();
  Refresh(controller);
  return true;
}

bool SimulatedCluster::Do(Controller*, const ApplyChildren&) {
  children_generation_ = object_.generation;
  return true;
}

bool SimulatedCluster::Do(Controller*, const CreateInspection&) {
  if (!inspection_.exists) {
    inspection_.exists = true;
    inspection_.uid = absl::StrCat("uid-", ++num_uids_);
    inspection_.uri = object_.spec.model.uri;
    inspection_.created_at = now_;
  }
  return true;
}

bool SimulatedCluster::Do(Controller*, const DeleteInspection& remove) {
  inspection_.terminating = inspection_.terminating || inspection_.uid == remove.uid;
  return true;
}

bool SimulatedCluster::Do(Controller* controller, const CreatePod& create) {
  const std::string name =
      absl::StrCat("demo-g", create.group, "-s", create.slot, "-", create.incarnation);
  if (pods_.contains(name)) {
    return true;  // AlreadyExists: an earlier reply was lost
  }
  if (quota_exceeded_) {
    controller->last_create_error = "exceeded quota";
    return false;
  }
  controller->last_create_error.clear();
  const bool leads = controller == &leader() && controller->term == object_.status.term;
  const api::GroupStatus* group = FindGroup(object_.status, create.group);
  const size_t slot = static_cast<size_t>(create.slot);
  const int claimed = group != nullptr && slot < group->incarnations.size()
                          ? group->incarnations[slot]
                          : object_.status.next_incarnation - 1;
  if (create.incarnation > claimed) {
    Broken(absl::StrCat(name, " is created and was not claimed"));
  }
  if (leads && burnt_.contains(name)) {
    Broken(absl::StrCat(name, " is created again and may have run before"));
  }
  Pod pod;
  pod.seen.name = name;
  pod.seen.uid = absl::StrCat("uid-", ++num_uids_);
  pod.seen.group = create.group;
  pod.seen.slot = create.slot;
  pod.seen.incarnation = create.incarnation;
  pod.seen.revision = create.revision;
  pod.seen.gated = create.gated;
  pod.seen.created_at = now_;
  created_.push_back(pod.seen);
  pods_[name] = std::move(pod);
  return true;
}

bool SimulatedCluster::Do(Controller*, const RemoveGate& remove) {
  if (Pod* pod = FindUid(remove.uid); pod != nullptr) {
    pod->seen.gated = false;
  }
  return true;
}

bool SimulatedCluster::Do(Controller* controller, const DeletePod& remove) {
  Pod* pod = FindUid(remove.uid);
  if (pod == nullptr) {
    return true;  // NotFound, or Conflict: another pod has its name
  }
  const auto running = controller->groups.find(pod->seen.group);
  if (controller == &leader() && running != controller->groups.end() &&
      running->second.seen.phase == Phase::kActive && pod->process.alive) {
    const std::vector<std::string>& members = running->second.member_of_slot;
    const api::GroupStatus* group = FindGroup(object_.status, pod->seen.group);
    if (std::find(members.begin(), members.end(), remove.uid) != members.end() &&
        group != nullptr && group->phase != kDraining && !group->slot_of_rank.empty()) {
      Broken(absl::StrCat(remove.pod, " is deleted (", remove.reason, ") and serves"));
    }
  }
  pod->seen.terminating = true;
  if (pod->seen.node.empty()) {
    pods_.erase(pod->seen.name);
  }
  return true;
}

bool SimulatedCluster::Do(Controller* controller, const StartGroup& start) {
  const api::RevisionStatus* revision = FindRevision(controller->deployment.status, start.revision);
  const size_t num_ranks = start.slot_of_rank.size();
  const size_t num_slots = start.incarnations.size();
  if (revision == nullptr || num_ranks != static_cast<size_t>(revision->num_slots) ||
      runtime::RanksPerPod(start.slot_of_rank) != revision->gpus_per_pod) {
    Broken("a group starts with another layout than its revision's");
    return false;
  }
  std::set<int> slots;
  for (size_t rank = 0; rank < num_ranks; ++rank) {
    const int slot = start.slot_of_rank[rank];
    if (rank % static_cast<size_t>(revision->gpus_per_pod) != 0) {
      if (slot != start.slot_of_rank[rank - 1]) {
        Broken("the ranks of a pod are not in a row");
      }
    } else if (slot < 0 || static_cast<size_t>(slot) >= num_slots || !slots.insert(slot).second) {
      Broken("a group starts with ranks that have no pod of their own");
    }
  }
  if (controller != &leader() || controller->groups.contains(start.index)) {
    return true;
  }
  Group group;
  group.seen.index = start.index;
  group.seen.used_incarnations = start.incarnations;
  group.seen.rank_loaded.assign(num_ranks, false);
  group.slot_of_rank = start.slot_of_rank;
  group.last_epoch = start.last_epoch;
  group.member_of_slot.resize(num_slots);
  group.num_failures.resize(num_slots, 0);
  controller->groups[start.index] = std::move(group);
  return true;
}

bool SimulatedCluster::Do(Controller* controller, const DrainGroup& drain) {
  if (const auto found = controller->groups.find(drain.index); found != controller->groups.end()) {
    found->second.seen.draining = true;
  }
  return true;
}

bool SimulatedCluster::Do(Controller* controller, const StopGroup& stop) {
  const auto found = controller->groups.find(stop.index);
  if (found == controller->groups.end()) {
    return true;
  }
  const api::GroupStatus* group = FindGroup(object_.status, stop.index);
  if (controller == &leader() && found->second.seen.phase == Phase::kActive && group != nullptr &&
      group->phase != kDraining && !group->slot_of_rank.empty()) {
    Broken(absl::StrCat("group ", stop.index, " is stopped and serves"));
  }
  for (const std::string& uid : found->second.member_of_slot) {
    Pod* pod = FindUid(uid);
    if (pod != nullptr && pod->process.alive && pod->process.term <= controller->term) {
      pod->process.epoch = 0;
      if (OneIn(2)) {  // dismissed: it ends
        pod->process = {};
        pod->seen.phase = ObservedPod::Phase::kSucceeded;
      }
    }
  }
  controller->groups.erase(found);
  return true;
}

void SimulatedCluster::Replace(bool other) {
  if (other) {
    leader_ = 1 - leader_;
  }
  Controller& controller = leader();
  controller.term = 0;
  controller.groups.clear();
  controller.plan.clear();
  controller.last_create_error.clear();
}

}  // namespace moe::reconcile
