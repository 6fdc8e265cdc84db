// The world: API server, scheduler, kubelets, users and faults. The controllers are in
// simulated_controllers.cc and simulated_coordinator.cc.
#include "tests/controller/reconcile/simulated_cluster.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "controller/api/conditions.h"
#include "controller/reconcile/decision.h"
#include "runtime/exit_codes.h"
#include "tests/controller/reconcile/gpu_scene.h"

namespace moe::reconcile {

SimulatedCluster::SimulatedCluster(const Options& options, uint64_t seed)
    : options_(options), random_(seed), now_(absl::FromUnixSeconds(1'800'000'000)) {
  object_.ns = "prod";
  object_.name = "demo";
  object_.generation = 1;
  object_.created_at = now_;
  object_.spec.model = {"demo", "pvc://models/demo"};
  object_.spec.replicas = options.replicas;
  object_.spec.parallelism.automatic = options.automatic;
  object_.spec.parallelism.expert = options.automatic ? 0 : options.expert;
  object_.spec.backend = options.automatic ? api::Backend::kCuda : api::Backend::kCpu;
  object_.spec.worker.gpus_per_pod = options.gpus_per_pod;
  object_.spec.worker.spares = options.spares;
  object_.spec.update_strategy.max_unavailable = {options.max_unavailable, false};
  object_.spec.update_strategy.max_surge = {options.max_surge, false};
  object_.spec.worker.gang_timeout = absl::Seconds(options.gang_timeout_seconds);
  nodes_.assign(static_cast<size_t>(options.num_nodes), Node{true, options.pods_per_node});
  Touch();
}

void SimulatedCluster::Broken(const std::string& rule) {
  if (violation_.empty()) {
    violation_ = rule;
  }
}

void SimulatedCluster::Move(bool faults) {
  now_ += absl::Milliseconds(Draw(1000));
  if (faults && OneIn(25)) {
    Fault();
  }
  switch (Draw(8)) {
    case 0:
      Reconcile(&leader());
      break;
    case 1:
    case 2:
      Continue(&leader(), faults);
      break;
    case 3:
      Coordinate(&leader());
      break;
    case 4:
      ScheduleOne();
      break;
    case 5:
      // What the one before still does.
      Continue(&controllers_[1 - leader_], faults);
      break;
    default:
      RunKubelet();
  }
  CheckProcesses();
}

void SimulatedCluster::Heal() {
  for (Node& node : nodes_) {
    node = {true, options_.pods_per_node};
  }
  quota_exceeded_ = false;
  SetPaused(false);
  for (auto& [name, pod] : pods_) {
    // A node that was away finds out that its pods have ended.
    if (!pod.process.alive && pod.seen.phase == ObservedPod::Phase::kRunning) {
      pod.seen.phase = ObservedPod::Phase::kFailed;
    }
  }
}

// ---- Users ----

void SimulatedCluster::Scale(int replicas) {
  object_.spec.replicas = replicas;
  ++object_.generation;
  Touch();
}

void SimulatedCluster::ChangeEngine(int max_sequences) {
  object_.spec.engine.max_sequences = max_sequences;
  ++object_.generation;
  Touch();
}

void SimulatedCluster::SetPaused(bool paused) {
  object_.paused = paused;
  Touch();
}

void SimulatedCluster::Adopt() {
  const std::optional<api::LayoutDecision>& decision = object_.status.decision;
  object_.adopt_layout = decision.has_value() && decision->proposed.has_value() && !OneIn(4)
                             ? decision->proposed->layout
                             : "";
  Touch();
}

void SimulatedCluster::Delete() {
  object_.deleting = true;
  Touch();
}

// ---- Nodes ----

SimulatedCluster::Pod* SimulatedCluster::FindUid(const std::string& uid) {
  for (auto& [name, pod] : pods_) {
    if (pod.seen.uid == uid) {
      return &pod;
    }
  }
  return nullptr;
}

SimulatedCluster::Pod* SimulatedCluster::DrawPod() {
  if (pods_.empty()) {
    return nullptr;
  }
  auto at = pods_.begin();
  std::advance(at, Draw(static_cast<int>(pods_.size())));
  return &at->second;
}

namespace {

size_t NodeIndex(const std::string& name) { return static_cast<size_t>(std::stoi(name)); }

}  // namespace

void SimulatedCluster::ScheduleOne() {
  std::vector<int> used(nodes_.size(), 0);
  std::vector<Pod*> waiting;
  for (auto& [name, pod] : pods_) {
    if (!pod.seen.node.empty()) {
      ++used[NodeIndex(pod.seen.node)];
    } else if (!pod.seen.gated && !pod.seen.terminating) {
      waiting.push_back(&pod);
    }
  }
  if (waiting.empty()) {
    return;
  }
  Pod& pod = *waiting[static_cast<size_t>(Draw(static_cast<int>(waiting.size())))];
  const size_t first = static_cast<size_t>(Draw(static_cast<int>(nodes_.size())));
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const size_t node = (first + i) % nodes_.size();
    if (nodes_[node].up && used[node] < nodes_[node].room) {
      pod.seen.node = std::to_string(node);
      burnt_.insert(pod.seen.name);
      pod.seen.unschedulable.clear();
      return;
    }
  }
  pod.seen.unschedulable = "0 nodes are available";
}

void SimulatedCluster::RunKubelet() {
  if (inspection_.exists && OneIn(4)) {
    if (inspection_.terminating) {
      inspection_ = {};
    } else {
      inspection_.done = true;
      inspection_.result = options_.automatic ? Olmoe(inspection_.uri)
                                              : api::ModelStatus{inspection_.uri, 2, 8, 2, 1000};
    }
  }
  if (gateways_ready_ < object_.spec.gateway.replicas && children_generation_ > 0 && OneIn(4)) {
    ++gateways_ready_;
  }
  for (int i = 0; i < 4; ++i) {
    Pod* pod = DrawPod();
    if (pod == nullptr || pod->seen.node.empty() || !nodes_[NodeIndex(pod->seen.node)].up) {
      continue;
    }
    if (pod->seen.terminating) {
      pods_.erase(pod->seen.name);
    } else if (pod->seen.phase == ObservedPod::Phase::kPending) {
      pod->seen.phase = ObservedPod::Phase::kRunning;
      pod->seen.ip = "10.0.0.1";
      pod->process.alive = true;
    } else if (pod->process.alive) {
      pod->process.loaded = true;
      pod->seen.ready = pod->process.epoch != 0;
    }
  }
}

void SimulatedCluster::Fault() {
  Pod* pod = DrawPod();
  switch (Draw(options_.automatic ? 15 : 13)) {
    case 0:
    case 1:
      if (pod != nullptr && pod->process.alive) {
        pod->process = {};
        pod->seen.phase = ObservedPod::Phase::kFailed;
        pod->seen.ready = false;
        pod->seen.exit_code = OneIn(3) ? runtime::kGpuLostExitCode : 1;
      }
      break;
    case 2:  // somebody deletes it
      if (pod != nullptr) {
        pod->seen.terminating = true;
        if (pod->seen.node.empty() || OneIn(3)) {
          pods_.erase(pod->seen.name);
        }
      }
      break;
    case 3:
    case 4: {  // a node is lost, or comes back
      const size_t index = static_cast<size_t>(Draw(static_cast<int>(nodes_.size())));
      nodes_[index].up = !nodes_[index].up;
      const bool evict = OneIn(2);
      for (auto& [name, other] : pods_) {
        if (other.seen.node != std::to_string(index)) {
          continue;
        }
        other.process = {};
        if (nodes_[index].up && other.seen.phase == ObservedPod::Phase::kRunning) {
          other.seen.phase = ObservedPod::Phase::kFailed;
        } else if (!nodes_[index].up && evict) {
          other.seen.terminating = true;  // and stays so
        }
      }
      break;
    }
    case 5:
      Replace(/*other=*/true);
      break;
    case 6:
      Replace(/*other=*/false);
      break;
    case 7:
      Scale(Draw(3) + (OneIn(5) ? 0 : 1));
      break;
    case 8:
      ChangeEngine(64 << Draw(2));
      if (options_.gpus_per_pod > 1 && OneIn(2)) {
        object_.spec.worker.gpus_per_pod = OneIn(2) ? 1 : options_.gpus_per_pod;
      }
      if (options_.spares > 0 && OneIn(2)) {
        object_.spec.worker.spares = OneIn(2) ? 0 : options_.spares;
      }
      break;
    case 9:
      nodes_[static_cast<size_t>(Draw(static_cast<int>(nodes_.size())))].room =
          Draw(options_.pods_per_node + 1);
      break;
    case 10:
      SetPaused(OneIn(3));
      break;
    case 11:
      gateways_ready_ = Draw(object_.spec.gateway.replicas + 1);
      quota_exceeded_ = OneIn(2);
      break;
    case 12:
      now_ += absl::Seconds(Draw(90));
      break;
    case 13:
    case 14:
      Adopt();
      break;
  }
}

// ---- What is checked ----

void SimulatedCluster::CheckProcesses() {
  std::set<std::tuple<int, int, uint64_t>> running;
  for (const auto& [name, pod] : pods_) {
    if (pod.process.alive && pod.process.epoch != 0 &&
        !running.emplace(pod.seen.group, pod.process.rank, pod.process.epoch).second) {
      Broken(absl::StrCat("two processes of rank ", pod.process.rank, " run epoch ",
                          pod.process.epoch, " of group ", pod.seen.group));
    }
  }
}

void SimulatedCluster::CheckDecision(const api::MoEDeploymentStatus& next) {
  const std::optional<api::LayoutDecision>& before = object_.status.decision;
  if (!before.has_value()) {
    return;
  }
  if (!next.decision.has_value()) {
    Broken("a decision is gone, and the mode is still Auto");
  } else if (next.decision->spec_key == before->spec_key &&
             !SameLayout(before->choice, next.decision->choice) &&
             next.decision->choice.layout != object_.adopt_layout) {
    Broken(absl::StrCat("from ", before->choice.layout, " to ", next.decision->choice.layout,
                        ", which nobody asked for"));
  }
}

int SimulatedCluster::Width() const {
  if (!options_.automatic) {
    return options_.expert;
  }
  return object_.status.decision.has_value() ? object_.status.decision->choice.expert : 0;
}

int SimulatedCluster::num_serving() const {
  int count = 0;
  for (const auto& [index, group] : leader().groups) {
    if (group.seen.phase == ObservedGroup::Phase::kActive && !group.seen.draining) {
      ++count;
    }
  }
  return count;
}

bool SimulatedCluster::Converged() const {
  const Controller& controller = leader();
  if (controller.term != object_.status.term || !controller.plan.empty() ||
      num_serving() != object_.spec.replicas ||
      static_cast<int>(pods_.size()) !=
          object_.spec.replicas *
              (Width() / object_.spec.worker.gpus_per_pod + object_.spec.worker.spares)) {
    return false;
  }
  Controller fresh = controller;
  fresh.deployment = object_;
  fresh.pods.clear();
  for (const auto& [name, pod] : pods_) {
    fresh.pods.push_back(pod.seen);
  }
  Observed observed = Observe(fresh);
  if (!DecidePlan(observed).actions.empty()) {
    return false;
  }
  observed.now += absl::Hours(1);
  if (!DecidePlan(observed).actions.empty()) {
    return false;
  }
  return object_.spec.replicas == 0 || api::IsTrue(object_.status.conditions, "Ready");
}

bool SimulatedCluster::Gone() const {
  return pods_.empty() && object_.status.groups.empty() && leader().groups.empty();
}

std::string SimulatedCluster::Dump() const {
  std::string text =
      absl::StrCat("replicas ", object_.spec.replicas, ", term ", object_.status.term, ", leader ",
                   leader_, " with term ", leader().term, ", revision ", object_.status.revision);
  for (const api::GroupStatus& group : object_.status.groups) {
    absl::StrAppend(&text, "\ngroup ", group.index, " ", group.phase, " (", group.reason,
                    ") revision ", group.revision, " epoch ", group.epoch, " incarnations");
    for (const int incarnation : group.incarnations) {
      absl::StrAppend(&text, " ", incarnation);
    }
  }
  for (const auto& [index, group] : leader().groups) {
    absl::StrAppend(&text, "\ncoordinator: group ", index, " phase ",
                    static_cast<int>(group.seen.phase), " wants ", group.seen.wanted_slots.size());
  }
  for (const auto& [name, pod] : pods_) {
    absl::StrAppend(&text, "\n", name, " node ", pod.seen.node, pod.seen.gated ? " gated" : "",
                    pod.seen.terminating ? " terminating" : "", " phase ",
                    static_cast<int>(pod.seen.phase), " epoch ", pod.process.epoch);
  }
  for (const api::Condition& condition : object_.status.conditions) {
    absl::StrAppend(&text, "\n", condition.type, " ", condition.status, " ", condition.reason, ": ",
                    condition.message);
  }
  return text;
}

}  // namespace moe::reconcile
