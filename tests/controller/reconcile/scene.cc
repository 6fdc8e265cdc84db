#include "tests/controller/reconcile/scene.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/api/conditions.h"
#include "controller/api/status_json.h"
#include "gtest/gtest.h"

namespace moe::reconcile {
namespace {

struct Text {
  std::string operator()(const WriteStatus&) const { return "WriteStatus"; }
  std::string operator()(const ApplyChildren&) const { return "ApplyChildren"; }
  std::string operator()(const CreateInspection&) const { return "CreateInspection"; }
  std::string operator()(const DeleteInspection&) const { return "DeleteInspection"; }
  std::string operator()(const CreatePod& create) const {
    return absl::StrCat("CreatePod g", create.group, "-s", create.slot, "-", create.incarnation,
                        create.gated ? " gated" : "");
  }
  std::string operator()(const RemoveGate& remove) const {
    return absl::StrCat("RemoveGate ", remove.pod);
  }
  std::string operator()(const DeletePod& remove) const {
    return absl::StrCat("DeletePod ", remove.pod);
  }
  std::string operator()(const StartGroup& start) const {
    return absl::StrCat("StartGroup ", start.index);
  }
  std::string operator()(const DrainGroup& drain) const {
    return absl::StrCat("DrainGroup ", drain.index);
  }
  std::string operator()(const StopGroup& stop) const {
    return absl::StrCat("StopGroup ", stop.index);
  }
  std::string operator()(const Event&) const { return ""; }
};

}  // namespace

std::vector<std::string> Describe(const Plan& plan) {
  std::vector<std::string> texts;
  for (const Action& action : plan.actions) {
    if (std::string text = std::visit(Text(), action); !text.empty()) {
      texts.push_back(std::move(text));
    }
  }
  return texts;
}

Scene::Scene(int expert, int replicas) {
  observed.now = absl::FromUnixSeconds(1'800'000'000);
  observed.term = 1;
  observed.worker_image = "worker:1";
  observed.gateway_image = "gateway:1";
  api::MoEDeployment& deployment = observed.deployment;
  deployment.ns = "prod";
  deployment.name = "demo";
  deployment.generation = 1;
  deployment.created_at = observed.now;
  deployment.spec.model = {"demo", "pvc://models/demo"};
  deployment.spec.replicas = replicas;
  deployment.spec.parallelism.expert = expert;
  deployment.status.term = 1;
  deployment.status.model = api::ModelStatus{"pvc://models/demo", 2, 8, 2, 1000};
}

void Scene::Apply(const Plan& plan) {
  for (const Action& action : plan.actions) {
    std::visit([this](const auto& a) { Do(a); }, action);
  }
}

Plan Scene::Step() {
  Plan plan = Decide();
  Apply(plan);
  return plan;
}

void Scene::Schedule() {
  for (ObservedPod& pod : observed.pods) {
    if (!pod.gated && pod.node.empty()) {
      pod.node = absl::StrCat("node-", pod.group, "-", pod.slot / 2);
      pod.phase = ObservedPod::Phase::kRunning;
    }
  }
}

void Scene::Activate() {
  for (ObservedGroup& group : observed.groups) {
    const api::GroupStatus& status = this->group(group.index);
    size_t num_missing = status.slot_of_rank.size();
    for (ObservedPod& pod : observed.pods) {
      if (pod.group == group.index && !pod.node.empty() && !pod.terminating) {
        num_missing -= static_cast<size_t>(
            std::count(status.slot_of_rank.begin(), status.slot_of_rank.end(), pod.slot));
        pod.ready = true;
        int& used = group.used_incarnations[static_cast<size_t>(pod.slot)];
        used = std::max(used, pod.incarnation);
      }
    }
    if (num_missing == 0 && group.phase != ObservedGroup::Phase::kActive &&
        group.phase != ObservedGroup::Phase::kFailed) {
      group.phase = ObservedGroup::Phase::kActive;
      group.epoch = std::max(group.epoch, this->group(group.index).epoch) + 1;
      group.wanted_slots.clear();
      group.rank_loaded.assign(this->group(group.index).slot_of_rank.size(), true);
    }
  }
  observed.gateway = {true, spec().gateway.replicas, spec().gateway.replicas, true, ""};
}

Plan Scene::Turn() {
  Plan plan = Step();
  Schedule();
  Activate();
  Advance(absl::Seconds(6));
  return plan;
}

bool Scene::Settle() {
  for (int i = 0; i < 400; ++i) {
    if (Turn().actions.empty()) {
      return true;
    }
  }
  return false;
}

void Scene::Edit() {
  ++observed.deployment.generation;
  observed.children_current = false;
}

api::GroupStatus& Scene::group(int index) {
  for (api::GroupStatus& group : status().groups) {
    if (group.index == index) {
      return group;
    }
  }
  ADD_FAILURE() << "no group " << index;
  std::abort();
}

ObservedGroup& Scene::running(int index) {
  for (ObservedGroup& group : observed.groups) {
    if (group.index == index) {
      return group;
    }
  }
  ADD_FAILURE() << "group " << index << " does not run";
  std::abort();
}

bool Scene::runs(int index) const {
  return std::any_of(observed.groups.begin(), observed.groups.end(),
                     [&](const ObservedGroup& group) { return group.index == index; });
}

ObservedPod& Scene::pod(int group, int slot) {
  ObservedPod* newest = nullptr;
  for (ObservedPod& pod : observed.pods) {
    if (pod.group == group && pod.slot == slot &&
        (newest == nullptr || pod.incarnation > newest->incarnation)) {
      newest = &pod;
    }
  }
  if (newest == nullptr) {
    ADD_FAILURE() << "no pod of slot " << slot;
    std::abort();
  }
  return *newest;
}

void Scene::Erase(const std::string& pod_name) {
  std::erase_if(observed.pods, [&](const ObservedPod& pod) { return pod.name == pod_name; });
}

std::vector<int> Scene::groups() const {
  std::vector<int> indexes;
  for (const api::GroupStatus& group : observed.deployment.status.groups) {
    indexes.push_back(group.index);
  }
  return indexes;
}

int Scene::num_active() const {
  return static_cast<int>(
      std::count_if(observed.groups.begin(), observed.groups.end(), [](const ObservedGroup& group) {
        return group.phase == ObservedGroup::Phase::kActive && !group.draining;
      }));
}

const api::Condition& Scene::condition(std::string_view type) const {
  const api::Condition* found = api::FindCondition(observed.deployment.status.conditions,
                                                   absl::string_view(type.data(), type.size()));
  if (found == nullptr) {
    ADD_FAILURE() << "no condition " << type;
    std::abort();
  }
  return *found;
}

void Scene::Do(const WriteStatus& write) {
  // As the API server would give it back.
  absl::StatusOr<api::MoEDeploymentStatus> read =
      api::StatusFromJson(api::StatusToJson(write.status));
  ASSERT_TRUE(read.ok()) << read.status();
  status() = *std::move(read);
}

void Scene::Do(const CreateInspection&) {
  observed.inspection = {};
  observed.inspection.exists = true;
  observed.inspection.uid = absl::StrCat("uid-", ++num_uids_);
  observed.inspection.uri = spec().model.uri;
  observed.inspection.created_at = observed.now;
}

void Scene::Do(const CreatePod& create) {
  ObservedPod pod;
  pod.name = absl::StrCat("demo-g", create.group, "-s", create.slot, "-", create.incarnation);
  for (const ObservedPod& other : observed.pods) {
    ASSERT_NE(other.name, pod.name);
  }
  pod.uid = absl::StrCat("uid-", ++num_uids_);
  pod.group = create.group;
  pod.slot = create.slot;
  pod.incarnation = create.incarnation;
  pod.revision = create.revision;
  pod.gated = create.gated;
  pod.created_at = observed.now;
  observed.pods.push_back(std::move(pod));
}

void Scene::Do(const RemoveGate& remove) {
  for (ObservedPod& pod : observed.pods) {
    if (pod.uid == remove.uid) {
      pod.gated = false;
    }
  }
}

void Scene::Do(const DeletePod& remove) {
  std::erase_if(observed.pods, [&](const ObservedPod& pod) { return pod.uid == remove.uid; });
}

void Scene::Do(const StartGroup& start) {
  ASSERT_FALSE(runs(start.index));
  ObservedGroup group;
  group.index = start.index;
  group.epoch = 0;
  group.used_incarnations = start.incarnations;
  observed.groups.push_back(std::move(group));
}

void Scene::Do(const StopGroup& stop) {
  std::erase_if(observed.groups,
                [&](const ObservedGroup& group) { return group.index == stop.index; });
}

}  // namespace moe::reconcile
