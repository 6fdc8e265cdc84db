// Observes, decides and acts for one MoEDeployment after another.
//
// Threads take keys from a work queue, which never gives one key to two of them. What is remembered
// of a deployment between two rounds is what this process itself has done: the term that it
// claimed, pods that it created and the cache does not show yet, children that it applied. Losing
// it costs a round, never more.
//
// A deployment that is gone: its groups are led until its gateways have ended, so that their last
// requests finish; then workers that are still in their grace period are dismissed.
//
// Methods are thread-safe. Tested by tests/controller/operator/operator_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_RECONCILER_H_
#define MOE_CONTROLLER_OPERATOR_RECONCILER_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/api/parse.h"
#include "controller/coordinator/server.h"
#include "controller/kube/api.h"
#include "controller/kube/events.h"
#include "controller/kube/work_queue.h"
#include "controller/manifests/context.h"
#include "controller/operator/applied_children.h"
#include "controller/operator/caches.h"
#include "controller/operator/executor.h"
#include "controller/operator/gang_arbiter.h"
#include "controller/operator/groups.h"
#include "controller/operator/known_pods.h"
#include "controller/operator/operator_metrics.h"
#include "controller/reconcile/plan.h"
#include "planner/hardware.h"

namespace moe::controller {

struct ReconcilerOptions {
  // worker_image and gateway_image are the defaults of deployments that have none pinned.
  manifests::Context context;
  std::string cuda_worker_image = {};  // worker_image for backend CUDA
  int num_threads = 4;
  // For mode: Auto: GPUs that the planner knows, and what is assumed to join them.
  std::vector<planner::Device> devices = {};
  planner::Network network = {};
};

class Reconciler {
 public:
  // All of these outlive it. `leads`: whether this controller leads at this moment.
  struct Parts {
    kube::Api* api = nullptr;
    Caches* caches = nullptr;
    coordinator::CoordinatorServer* server = nullptr;
    kube::WorkQueue* queue = nullptr;
    kube::EventRecorder* events = nullptr;
    OperatorMetrics* metrics = nullptr;
    std::function<bool()> leads;
  };

  Reconciler(Parts parts, ReconcilerOptions options);
  // Shuts the queue down and waits for the threads.
  ~Reconciler();
  Reconciler(const Reconciler&) = delete;
  Reconciler& operator=(const Reconciler&) = delete;

  // Once, when the caches are synced.
  void Start();
  // This controller leads from now on: everything is looked at, with a new term.
  void Begin();
  // It does not any more: waits for rounds under way, and forgets.
  void End();

 private:
  // What is remembered of a deployment.
  struct State {
    std::string uid;
    uint64_t term = 0;
    AppliedChildren applied;
    absl::Status children_status;
    std::string last_create_error;
    KnownPods known;
    std::map<std::string, std::pair<Caches::Object, absl::Time>> created;  // pods, by name
    std::set<std::string> deleted;  // uids of pods, until they are gone
    std::set<std::string> ended;    // uids of pods whose end was counted
    std::set<std::string> leaving;  // uids of workers that others delete one by one
    absl::Time status_written_at = absl::InfinitePast();
  };
  using StatePtr = std::shared_ptr<State>;

  // One round: what was observed and what is done about it.
  struct Round {
    kube::ObjectKey key;
    Caches::Object object;
    reconcile::Observed observed;
    Execution execution;
    bool going = false;  // see IsGoing; nothing else was observed
  };

  void Work();
  // Returns when to look again, or why it failed.
  absl::StatusOr<absl::Duration> Reconcile(const kube::ObjectKey& key);
  absl::Duration Release(const kube::ObjectKey& key);
  StatePtr StateOf(const kube::ObjectKey& key, const std::string& uid);
  // Workers that are being deleted and belong to no deployment with this uid end when they next ask
  // for their group, whoever led it. One that is only not known yet is not among them.
  void DismissOthers(const kube::ObjectKey& key, const std::string& uid, KnownPods* known) const;

  void Observe(const api::ParsedDeployment& parsed, State* state, Round* round);
  // Whether the deployment is gone, or being deleted, and the cache does not know yet: its pods
  // leave together with it. Asks the server when somebody else has deleted a worker's pod.
  bool IsGoing(const Round& round, State* state) const;
  // Valid until the next round.
  std::vector<const KnownPod*> PodsOf(const Round& round, State* state) const;
  void CountEnds(const std::vector<const KnownPod*>& pods, State* state) const;
  void CompareChildren(State* state, Round* round) const;
  // Decides, with a turn for its gang if it wants one.
  reconcile::Plan Decide(Round* round);
  void Remember(const Round& round, Outcome outcome, State* state);
  // Gateways may count on what the coordinator shows once all groups of the status are led.
  void ShowIfComplete(const Round& round);
  void QueueAll();
  void Record(const api::MoEDeployment& deployment, const reconcile::Event& event) const;

  const Parts parts_;
  const ReconcilerOptions options_;
  Groups groups_;
  GangArbiter gangs_;
  const Executor executor_;
  std::vector<std::thread> threads_;

  absl::Mutex mu_;
  bool led_ ABSL_GUARDED_BY(mu_) = false;  // between Begin and End
  int num_rounds_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<kube::ObjectKey, StatePtr> states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_RECONCILER_H_
