#include "controller/operator/executor.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "controller/api/gpu_failures.h"
#include "controller/api/status_json.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "controller/manifests/worker_pod.h"
#include "controller/operator/observe.h"
#include "controller/reconcile/decision.h"
#include "runtime/slot_ranks.h"

namespace moe::controller {
namespace {

using kube::Json;

// A worker that is not wanted any more has nothing to finish. One second and not none: with none
// the API server forgets the pod before its node has ended it.
constexpr absl::Duration kWorkerGrace = absl::Seconds(1);

// Pods that one plan creates. What is complete is looked at again after so many; a larger gang
// takes several plans.
constexpr size_t kMaxCreates = 128;

// Runs all calls, several at a time, and starts no further one after the first that fails.
// Returns that one's status.
absl::Status RunAll(const std::vector<std::function<absl::Status()>>& calls, int parallel) {
  std::atomic<size_t> next = 0;
  absl::Mutex mu;
  absl::Status first;
  std::atomic<bool> failed = false;
  const auto work = [&] {
    while (!failed.load()) {
      const size_t i = next.fetch_add(1);
      if (i >= calls.size()) return;
      const absl::Status status = calls[i]();
      if (status.ok()) continue;
      failed.store(true);
      absl::MutexLock lock(&mu);
      if (first.ok()) first = status;
    }
  };
  const size_t num_threads = std::min(calls.size(), static_cast<size_t>(std::max(parallel, 1)));
  std::vector<std::thread> threads;
  for (size_t i = 1; i < num_threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return first;
}

// A merge patch writes a list as a whole, and only our gate is to go. An empty list is null.
Json GatesOfOthers(const Json& pod) {
  Json others;
  const Json::json_pointer gates("/spec/schedulingGates");
  if (!pod.contains(gates) || !pod[gates].is_array()) return others;
  for (const Json& gate : pod[gates]) {
    if (gate != Json{{"name", manifests::kGangGate}}) others.push_back(gate);
  }
  return others;
}

// Actions on pods that may go side by side.
bool IsPodAction(const reconcile::Action& action) {
  return std::holds_alternative<reconcile::CreatePod>(action) ||
         std::holds_alternative<reconcile::RemoveGate>(action) ||
         std::holds_alternative<reconcile::DeletePod>(action);
}

}  // namespace

// One plan under way.
class Executor::Run {
 public:
  Run(const Executor& executor, const Execution& execution)
      : executor_(executor), in_(execution), deployment_(execution.observed->deployment) {}

  Outcome Carry(const reconcile::Plan& plan) {
    for (size_t i = 0; i < plan.actions.size() && outcome_.status.ok();) {
      size_t end = i + 1;
      while (IsPodAction(plan.actions[i]) && end < plan.actions.size() &&
             plan.actions[end].index() == plan.actions[i].index()) {
        ++end;
      }
      if (std::holds_alternative<reconcile::CreatePod>(plan.actions[i]) && end - i > kMaxCreates) {
        // The rest is decided anew.
        outcome_.status = DoAll(&plan.actions[i], kMaxCreates);
        end = plan.actions.size();
      } else if (IsPodAction(plan.actions[i])) {
        outcome_.status = DoAll(&plan.actions[i], end - i);
      } else {
        outcome_.status = DoIfLeading(plan.actions[i]);
      }
      if (!std::holds_alternative<reconcile::Event>(plan.actions[i])) outcome_.acted = true;
      i = end;
    }
    absl::MutexLock lock(&mu_);
    outcome_.created = std::move(created_);
    outcome_.deleted = std::move(deleted_);
    return std::move(outcome_);
  }

  absl::Status NoteRanks() {
    std::vector<std::function<absl::Status()>> calls;
    for (const reconcile::ObservedPod& pod : in_.observed->pods) {
      const api::GroupStatus* group = reconcile::FindGroup(deployment_.status, pod.group);
      if (group == nullptr || !group->active || pod.terminating) continue;
      const int rank = runtime::RankOf(group->slot_of_rank, pod.slot);
      const std::shared_ptr<const Json> cached = in_.find_pod(pod.name);
      const std::string text =
          manifests::RanksText(rank, runtime::RanksPerPod(group->slot_of_rank));
      if (rank < 0 || cached == nullptr || kube::MetadataString(*cached, "uid") != pod.uid ||
          manifests::AnnotationOf(*cached, manifests::kAnnotationRank) == text) {
        continue;
      }
      calls.push_back([this, &pod, text] {
        if (!executor_.callbacks_.leads()) return absl::OkStatus();
        absl::StatusOr<Json> patched = api()->MergePatch(
            kube::kPods, {deployment_.ns, pod.name},
            Json{{"metadata",
                  {{"uid", pod.uid}, {"annotations", {{manifests::kAnnotationRank, text}}}}}});
        if (!patched.ok()) return Ignore(patched.status());
        executor_.callbacks_.written(kube::kPods, *std::move(patched));
        return absl::OkStatus();
      });
    }
    return RunAll(calls, executor_.parallel_);
  }

 private:
  absl::Status DoIfLeading(const reconcile::Action& action) {
    // A controller that slept past its lease stops here; what it has sent is fenced.
    if (!executor_.callbacks_.leads()) {
      return absl::FailedPreconditionError("this controller does not lead any more");
    }
    return std::visit([this](const auto& a) { return Do(a); }, action);
  }

  absl::Status DoAll(const reconcile::Action* actions, size_t num) {
    std::vector<std::function<absl::Status()>> calls;
    calls.reserve(num);
    for (size_t i = 0; i < num; ++i) {
      calls.push_back([this, action = &actions[i]] { return DoIfLeading(*action); });
    }
    const absl::Status status = RunAll(calls, executor_.parallel_);
    if (std::holds_alternative<reconcile::CreatePod>(*actions)) outcome_.create_status = status;
    return status;
  }

  absl::Status Do(const reconcile::WriteStatus& action) {
    Json object = *in_.object;
    object["status"] = api::StatusToJson(action.status);
    absl::StatusOr<Json> written = api()->UpdateStatus(kube::kMoeDeployments, object);
    if (!written.ok()) return written.status();
    deployment_.status = action.status;
    outcome_.term = action.status.term;
    outcome_.status_written = action.status;
    executor_.callbacks_.written(kube::kMoeDeployments, *std::move(written));
    return absl::OkStatus();
  }

  absl::Status Do(const reconcile::ApplyChildren& /*action*/) {
    absl::Status first;
    bool answered = true;
    // Each for itself: a bad Ingress leaves the others as they should be.
    const auto note = [&](const absl::Status& status) {
      answered = !absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status);
      first.Update(status);
    };
    for (const manifests::Child& child : in_.children.apply) {
      if (answered) note(Apply(child));
    }
    for (const AppliedChildren::Removal& removal : in_.children.remove) {
      if (answered) note(Ignore(api()->Delete(removal.type, removal.key, OfUid(removal.uid))));
    }
    outcome_.children_status = first;
    return absl::OkStatus();
  }

  absl::Status Do(const reconcile::CreateInspection& /*action*/) {
    // The other children wait until the model is known; this pod's account can't.
    for (const manifests::Child& child : manifests::InspectChildren(deployment_)) {
      if (absl::Status status = Apply(child); !status.ok()) return status;
    }
    return Create(manifests::InspectPod(deployment_, in_.context));
  }

  absl::Status Do(const reconcile::DeleteInspection& action) {
    return DeletePodOf(manifests::InspectPodName(deployment_.name), action.uid);
  }

  absl::Status Do(const reconcile::CreatePod& action) {
    const api::GroupStatus* group = reconcile::FindGroup(deployment_.status, action.group);
    if (group == nullptr) {
      return absl::InternalError(absl::StrCat("group ", action.group, " is not in the status"));
    }
    return Create(manifests::WorkerPod(deployment_, in_.context,
                                       {.group = action.group,
                                        .slot = action.slot,
                                        .incarnation = action.incarnation,
                                        .num_slots = NumRankPods(*group),
                                        .revision = action.revision,
                                        .gated = action.gated,
                                        .rank = runtime::RankOf(group->slot_of_rank, action.slot),
                                        .avoid_nodes = api::NodesToAvoid(deployment_.status)}));
  }

  // The empty entry has the API server forget which client wrote which field, and keep no such
  // account of this pod any more (Kubernetes, "Server-Side Apply", clearing managedFields). It is
  // half of the pod's size and a part of what each later write of it costs; nobody applies these
  // pods.
  absl::Status Do(const reconcile::RemoveGate& action) {
    const std::shared_ptr<const Json> pod = in_.find_pod(action.pod);
    // Gone, or another one by now.
    if (pod == nullptr || kube::MetadataString(*pod, "uid") != action.uid) return absl::OkStatus();
    absl::StatusOr<Json> patched = api()->MergePatch(
        kube::kPods, {deployment_.ns, action.pod},
        Json{{"metadata", {{"uid", action.uid}, {"managedFields", Json::array({Json::object()})}}},
             {"spec", {{"schedulingGates", GatesOfOthers(*pod)}}}});
    if (!patched.ok()) return Ignore(patched.status());
    executor_.callbacks_.written(kube::kPods, *std::move(patched));
    return absl::OkStatus();
  }

  absl::Status Do(const reconcile::DeletePod& action) {
    return DeletePodOf(action.pod, action.uid);
  }

  absl::Status Do(const reconcile::StartGroup& action) {
    return executor_.groups_->Start(deployment_, in_.observed->term, action, in_.observed->pods,
                                    static_cast<uint32_t>(ThreadsOf(action)));
  }

  // Threads of the workers of a group: every pod of it has the same container. The template may
  // have changed since they were created, and a worker keeps to what it was assigned.
  int ThreadsOf(const reconcile::StartGroup& action) const {
    const int num_processes = runtime::RanksPerPod(action.slot_of_rank);
    for (const reconcile::ObservedPod& pod : in_.observed->pods) {
      if (pod.group != action.index || pod.revision != action.revision) continue;
      if (const std::shared_ptr<const Json> cached = in_.find_pod(pod.name)) {
        return manifests::ThreadsOf(*cached, num_processes);
      }
    }
    return manifests::ThreadsOf(
        manifests::WorkerPod(deployment_, in_.context, manifests::WorkerPlace{}), num_processes);
  }

  // Pods of a group that have ranks, or will.
  int NumRankPods(const api::GroupStatus& group) const {
    const api::RevisionStatus* revision =
        reconcile::FindRevision(deployment_.status, group.revision);
    if (revision == nullptr) return static_cast<int>(group.incarnations.size());
    return std::max(1, revision->num_slots / revision->gpus_per_pod);
  }

  absl::Status Do(const reconcile::DrainGroup& action) {
    executor_.groups_->Drain({deployment_.ns, deployment_.name}, action.index);
    return absl::OkStatus();
  }
  absl::Status Do(const reconcile::StopGroup& action) {
    executor_.groups_->Stop({deployment_.ns, deployment_.name}, action.index);
    return absl::OkStatus();
  }
  absl::Status Do(const reconcile::Event& action) {
    executor_.callbacks_.event(deployment_, action);
    return absl::OkStatus();
  }

  kube::Api* api() const { return executor_.api_; }

  // What is gone, or is another object by now, needs no more.
  static absl::Status Ignore(const absl::Status& status) {
    return absl::IsNotFound(status) || absl::IsAborted(status) ? absl::OkStatus() : status;
  }
  static kube::DeleteOptions OfUid(const std::string& uid) {
    kube::DeleteOptions options;
    options.uid = uid;
    return options;
  }

  absl::Status DeletePodOf(const std::string& name, const std::string& uid) {
    kube::DeleteOptions options = OfUid(uid);
    options.grace = kWorkerGrace;
    const absl::Status status = Ignore(api()->Delete(kube::kPods, {deployment_.ns, name}, options));
    absl::MutexLock lock(&mu_);
    if (status.ok()) deleted_.push_back(uid);
    return status;
  }

  absl::Status Apply(const manifests::Child& child) {
    const absl::StatusOr<Json> result = api()->Apply(child.type, child.object);
    if (!result.ok()) return result.status();
    in_.applied->OnApplied(child, *result, absl::Now());
    return absl::OkStatus();
  }

  absl::Status Create(const Json& pod) {
    absl::StatusOr<Json> created = api()->Create(kube::kPods, deployment_.ns, pod);
    if (absl::IsAlreadyExists(created.status())) {
      // By an earlier try whose answer was lost, or behind the cache's back.
      created = api()->Get(kube::kPods, kube::KeyOf(pod));
      if (created.ok() && !OwnedBy(*created, deployment_.uid)) {
        return absl::FailedPreconditionError(absl::StrCat("pod ", kube::MetadataString(pod, "name"),
                                                          " exists and belongs to something else"));
      }
      if (absl::IsNotFound(created.status())) return absl::AbortedError("a pod has just gone");
    }
    if (!created.ok()) return created.status();
    absl::MutexLock lock(&mu_);
    created_.push_back(*std::move(created));
    return absl::OkStatus();
  }

  const Executor& executor_;
  const Execution& in_;
  api::MoEDeployment deployment_;  // with the status as it was written
  Outcome outcome_;
  absl::Mutex mu_;
  std::vector<Json> created_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> deleted_ ABSL_GUARDED_BY(mu_);
};

Executor::Executor(kube::Api* api, GroupControl* groups, Callbacks callbacks, int parallel)
    : api_(api), groups_(groups), callbacks_(std::move(callbacks)), parallel_(parallel) {}

Outcome Executor::Carry(const reconcile::Plan& plan, const Execution& execution) const {
  return Run(*this, execution).Carry(plan);
}

absl::Status Executor::NoteRanks(const Execution& execution) const {
  return Run(*this, execution).NoteRanks();
}

}  // namespace moe::controller
