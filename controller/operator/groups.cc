#include "controller/operator/groups.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/operator/group_options.h"
#include "controller/operator/observe.h"
#include "controller/operator/status_epoch_store.h"
#include "controller/reconcile/decision.h"

namespace moe::controller {

using coordinator::v1::GroupState;
using kube::ObjectKey;
using reconcile::ObservedGroup;
using reconcile::ObservedPod;

// What a decision may follow from, of a published state; counters move all the time.
struct Turn {
  GroupState::Phase phase = GroupState::PHASE_UNSPECIFIED;
  std::string reason;
  uint64_t epoch = 0;
  bool draining = false;
  bool idle = false;
  bool computed = false;  // any token
  int num_present = 0;
  int num_loaded = 0;

  friend bool operator==(const Turn&, const Turn&) = default;
};

struct Groups::Group {
  Group(int group_index, std::string group_name, std::vector<int> slot_of_rank,
        std::vector<int> incarnations, std::function<void()> on_change)
      : index(group_index),
        name(std::move(group_name)),
        pods(std::move(slot_of_rank), std::move(on_change)),
        used_incarnations(std::move(incarnations)) {}

  const int index;
  const std::string name;
  runtime::PodRuntime pods;
  absl::Mutex mu;
  std::vector<int> used_incarnations ABSL_GUARDED_BY(mu);  // by slot
  // Of the group's thread.
  RecoveryTracker recovery;
  uint64_t num_epochs = 0;
  Turn turn;
};

namespace {

Turn TurnOf(const GroupState& state) {
  Turn turn;
  turn.phase = state.phase();
  turn.reason = state.reason();
  turn.epoch = state.epoch();
  turn.draining = state.draining();
  turn.idle = state.num_running() + state.num_waiting() == 0;
  for (const GroupState::Worker& worker : state.workers()) {
    turn.num_present += worker.host().empty() ? 0 : 1;
    turn.num_loaded += worker.loaded_bytes() > 0 ? 1 : 0;
  }
  turn.computed = std::any_of(state.expert_tokens().begin(), state.expert_tokens().end(),
                              [](uint64_t tokens) { return tokens > 0; });
  // A group that serves goes idle and busy many times each second.
  if (!turn.draining) turn.idle = false;
  return turn;
}

std::string DescribeEnd(const ObservedPod& pod) {
  if (pod.terminating) return "is being deleted";
  if (!pod.exit_reason.empty() && pod.exit_reason != "Error" && pod.exit_reason != "Completed") {
    return absl::StrCat("ended: ", pod.exit_reason);
  }
  if (pod.exit_code.has_value()) return absl::StrCat("exited with status ", *pod.exit_code);
  return "ended";
}

std::vector<runtime::WorkerPod> PodsOfGroup(const std::vector<ObservedPod>& pods, int group) {
  std::vector<runtime::WorkerPod> workers;
  for (const ObservedPod& pod : pods) {
    if (pod.group != group) continue;
    // A pod that is being deleted may hang in it for as long as its node is lost.
    const bool ended = pod.terminating || pod.phase == ObservedPod::Phase::kFailed ||
                       pod.phase == ObservedPod::Phase::kSucceeded;
    workers.push_back({.slot = pod.slot,
                       .incarnation = pod.incarnation,
                       .uid = pod.uid,
                       .ended = ended,
                       .description = ended ? DescribeEnd(pod) : "",
                       .last_lines = ended ? pod.termination_message : ""});
  }
  return workers;
}

void RaiseUsed(const std::vector<ObservedPod>& pods, int group, std::vector<int>* used) {
  for (const ObservedPod& pod : pods) {
    if (pod.group != group || pod.slot < 0 || static_cast<size_t>(pod.slot) >= used->size()) {
      continue;
    }
    int& highest = (*used)[static_cast<size_t>(pod.slot)];
    highest = std::max(highest, pod.incarnation);
  }
}

}  // namespace

std::string GroupNameOf(const ObjectKey& deployment, int index) {
  return absl::StrCat(deployment.ns, "/", deployment.name, "/", index);
}

Groups::Groups(coordinator::CoordinatorServer* server, kube::Api* api, OperatorMetrics* metrics,
               Callbacks callbacks)
    : server_(server), api_(api), metrics_(metrics), callbacks_(std::move(callbacks)) {}

Groups::~Groups() { Clear(); }

absl::Status Groups::Start(const api::MoEDeployment& deployment, uint64_t term,
                           const reconcile::StartGroup& action,
                           const std::vector<ObservedPod>& pods, uint32_t attention_threads) {
  const ObjectKey key{deployment.ns, deployment.name};
  if (Has(key, action.index)) return absl::OkStatus();
  const api::RevisionStatus* revision = reconcile::FindRevision(deployment.status, action.revision);
  if (revision == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the status does not know revision ", action.revision));
  }
  absl::StatusOr<coordinator::GroupOptions> options =
      MakeGroupOptions(*revision, attention_threads);
  if (!options.ok()) return options.status();
  if (static_cast<int>(action.slot_of_rank.size()) != options->placement.num_slots) {
    return absl::FailedPreconditionError("the status holds a rank for some slots only");
  }
  auto group = std::make_shared<Group>(action.index, GroupNameOf(key, action.index),
                                       action.slot_of_rank, action.incarnations,
                                       [changed = callbacks_.changed, key] { changed(key); });
  {
    absl::MutexLock lock(&group->mu);
    RaiseUsed(pods, action.index, &group->used_incarnations);
  }
  group->pods.RaiseIncarnations(action.incarnations);
  group->pods.Observe(PodsOfGroup(pods, action.index));
  {
    absl::MutexLock lock(&mu_);
    groups_[key][action.index] = group;
  }
  const absl::Status status = server_->AddGroup(
      group->name, *std::move(options),
      std::make_unique<StatusEpochStore>(api_,
                                         StatusEpochStoreOptions{.deployment = key,
                                                                 .uid = deployment.uid,
                                                                 .group = action.index,
                                                                 .term = term,
                                                                 .last_epoch = action.last_epoch,
                                                                 .on_written = callbacks_.written}),
      &group->pods,
      // The group outlives its loop: it is forgotten after RemoveGroup alone.
      [this, key, raw = group.get()](const GroupState& state) { OnState(key, raw, state); });
  if (!status.ok()) {
    absl::MutexLock lock(&mu_);
    groups_[key].erase(action.index);
  }
  return status;
}

void Groups::OnState(const ObjectKey& deployment, Group* group, const GroupState& state) {
  for (const RecoveryTime& time : group->recovery.OnState(state, absl::Now())) {
    metrics_->AddRecovery(time.phase, time.took);
  }
  for (; group->num_epochs < group->recovery.num_epochs(); ++group->num_epochs) {
    metrics_->CountEpoch();
  }
  Turn turn = TurnOf(state);
  if (turn == group->turn) return;
  group->turn = std::move(turn);
  callbacks_.changed(deployment);
}

void Groups::Drain(const ObjectKey& deployment, int index) {
  server_->SetDraining(GroupNameOf(deployment, index));
}

void Groups::Stop(const ObjectKey& deployment, int index) {
  const std::string name = GroupNameOf(deployment, index);
  server_->StopGroup(name, absl::ZeroDuration());
  server_->RemoveGroup(name);
  GroupPtr group;  // ends outside of the lock
  absl::MutexLock lock(&mu_);
  const auto found = groups_.find(deployment);
  if (found == groups_.end()) return;
  const auto entry = found->second.find(index);
  if (entry == found->second.end()) return;
  group = std::move(entry->second);
  found->second.erase(entry);
}

void Groups::StopAll(const ObjectKey& deployment) {
  for (const GroupPtr& group : Of(deployment)) Stop(deployment, group->index);
}

void Groups::Remove(const ObjectKey& deployment) {
  std::map<int, GroupPtr> groups;
  {
    absl::MutexLock lock(&mu_);
    const auto found = groups_.find(deployment);
    if (found == groups_.end()) return;
    groups = std::move(found->second);
    groups_.erase(found);
  }
  for (const auto& [index, group] : groups) server_->RemoveGroup(group->name);
}

void Groups::Clear() {
  std::map<ObjectKey, std::map<int, GroupPtr>> groups;
  {
    absl::MutexLock lock(&mu_);
    groups.swap(groups_);
  }
  for (const auto& [deployment, of_deployment] : groups) {
    for (const auto& [index, group] : of_deployment) server_->RemoveGroup(group->name);
  }
}

std::vector<Groups::GroupPtr> Groups::Of(const ObjectKey& deployment) const {
  std::vector<GroupPtr> groups;
  absl::MutexLock lock(&mu_);
  const auto found = groups_.find(deployment);
  if (found == groups_.end()) return groups;
  for (const auto& [index, group] : found->second) groups.push_back(group);
  return groups;
}

bool Groups::Has(const ObjectKey& deployment, int index) const {
  absl::MutexLock lock(&mu_);
  const auto found = groups_.find(deployment);
  return found != groups_.end() && found->second.contains(index);
}

void Groups::ObservePods(const ObjectKey& deployment, const std::vector<ObservedPod>& pods,
                         const api::MoEDeploymentStatus& claimed) {
  for (const GroupPtr& group : Of(deployment)) {
    if (const api::GroupStatus* claims = reconcile::FindGroup(claimed, group->index)) {
      group->pods.RaiseIncarnations(claims->incarnations);
      group->pods.Assign(claims->slot_of_rank);
    }
    {
      absl::MutexLock lock(&group->mu);
      RaiseUsed(pods, group->index, &group->used_incarnations);
    }
    group->pods.Observe(PodsOfGroup(pods, group->index));
  }
}

std::vector<ObservedGroup> Groups::Observe(const ObjectKey& deployment) const {
  std::vector<ObservedGroup> observed;
  for (const GroupPtr& group : Of(deployment)) {
    const std::shared_ptr<const GroupState> state = server_->State(group->name);
    if (state == nullptr) continue;  // this controller has just ceased to lead
    ObservedGroup entry = ObserveGroup(group->index, *state);
    entry.wanted_slots = group->pods.WantedSlots();
    for (runtime::UnwantedPod& pod : group->pods.UnwantedPods()) {
      entry.unwanted_pods.push_back({std::move(pod.uid), std::move(pod.reason)});
    }
    absl::MutexLock lock(&group->mu);
    entry.used_incarnations = group->used_incarnations;
    observed.push_back(std::move(entry));
  }
  return observed;
}

std::optional<api::ExpertLoadStatus> Groups::ExpertLoad(const ObjectKey& deployment,
                                                        absl::Time now) const {
  std::vector<std::shared_ptr<const GroupState>> states;
  for (const GroupPtr& group : Of(deployment)) {
    if (auto state = server_->State(group->name)) states.push_back(std::move(state));
  }
  return SummarizeExpertLoad(states, now);
}

}  // namespace moe::controller
