// Carries out what DecidePlan decided for one MoEDeployment, in order, and stops at the first
// action that fails: what follows may depend on it, and is decided anew. Children that can't be
// applied (an Ingress that admission refuses) stop nothing: workers are repaired all the same.
//
// Pods of one kind of action that stand side by side are created, freed and deleted several at a
// time. Of a thousand pods to create, a plan creates the first: gangs that are complete by then are
// scheduled beside the rest. Every action may be repeated: names are given, deletes carry the uid,
// and a pod that is there already was created by an earlier try whose answer was lost.
//
// Thread-safe, but for one deployment, which is carried out by one thread at a time.
// Tested by tests/controller/operator/executor_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_EXECUTOR_H_
#define MOE_CONTROLLER_OPERATOR_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"
#include "controller/manifests/children.h"
#include "controller/manifests/context.h"
#include "controller/operator/applied_children.h"
#include "controller/reconcile/plan.h"

namespace moe::controller {

// The coordinator's side of a plan; see groups.h.
class GroupControl {
 public:
  virtual ~GroupControl() = default;
  virtual absl::Status Start(const api::MoEDeployment& deployment, uint64_t term,
                             const reconcile::StartGroup& action,
                             const std::vector<reconcile::ObservedPod>& pods,
                             uint32_t attention_threads) = 0;
  virtual void Drain(const kube::ObjectKey& deployment, int index) = 0;
  virtual void Stop(const kube::ObjectKey& deployment, int index) = 0;
};

// What the executor works on; the reconciler fills it from the caches.
struct Execution {
  std::shared_ptr<const kube::Json> object;  // the MoEDeployment, as it was observed
  const reconcile::Observed* observed = nullptr;
  // The children that are to be applied or removed.
  AppliedChildren::Difference children;
  AppliedChildren* applied = nullptr;
  manifests::Context context;  // with the images that the status pins
  // The cached pod, or null.
  std::function<std::shared_ptr<const kube::Json>(const std::string& name)> find_pod;
};

struct Outcome {
  absl::Status status;           // of the action that ended the plan
  std::optional<uint64_t> term;  // that a status claimed
  std::optional<api::MoEDeploymentStatus> status_written;
  std::optional<absl::Status> children_status;  // a failure is for the caller to try again
  std::optional<absl::Status> create_status;    // of worker pods
  std::vector<kube::Json> created;              // pods
  std::vector<std::string> deleted;             // uids of pods
  bool acted = false;                           // anything but events
};

class Executor {
 public:
  struct Callbacks {
    // Whether this controller leads; asked before each request.
    std::function<bool()> leads;
    // A MoEDeployment or a pod that was written.
    std::function<void(const kube::ResourceType&, kube::Json)> written;
    std::function<void(const api::MoEDeployment&, const reconcile::Event&)> event;
  };

  // Both must outlive it. `parallel`: requests at a time for one deployment.
  Executor(kube::Api* api, GroupControl* groups, Callbacks callbacks, int parallel = 16);

  Outcome Carry(const reconcile::Plan& plan, const Execution& execution) const;

  // Writes the ranks of groups that serve on their pods, where people look for them. For a round
  // that has nothing else to do: nothing waits for it, and it is a request for each pod.
  absl::Status NoteRanks(const Execution& execution) const;

 private:
  class Run;

  kube::Api* const api_;
  GroupControl* const groups_;
  const Callbacks callbacks_;
  const int parallel_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_EXECUTOR_H_
