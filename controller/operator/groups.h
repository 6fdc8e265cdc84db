// The groups that this controller leads: for each one its runtime, its epoch store and what the
// coordinator knows of it.
//
// Methods are thread-safe; those of one deployment are called by one thread at a time.
// Tested by tests/controller/operator/operator_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_GROUPS_H_
#define MOE_CONTROLLER_OPERATOR_GROUPS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"
#include "controller/coordinator/server.h"
#include "controller/kube/api.h"
#include "controller/operator/executor.h"
#include "controller/operator/operator_metrics.h"
#include "controller/operator/recovery.h"
#include "controller/reconcile/plan.h"
#include "runtime/pod_runtime.h"

namespace moe::controller {

class Groups : public GroupControl {
 public:
  struct Callbacks {
    // Something of a deployment has changed that a decision may follow from. Must not block.
    std::function<void(const kube::ObjectKey&)> changed;
    // An epoch was written to this MoEDeployment.
    std::function<void(kube::Json)> written;
  };

  // All must outlive it.
  Groups(coordinator::CoordinatorServer* server, kube::Api* api, OperatorMetrics* metrics,
         Callbacks callbacks);
  // Clear().
  ~Groups() override;
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;

  // `pods`: all of the deployment. Ok if it runs already. FailedPrecondition: this controller does
  // not lead.
  absl::Status Start(const api::MoEDeployment& deployment, uint64_t term,
                     const reconcile::StartGroup& action,
                     const std::vector<reconcile::ObservedPod>& pods,
                     uint32_t attention_threads) override;
  void Drain(const kube::ObjectKey& deployment, int index) override;
  // Ends its workers and forgets it.
  void Stop(const kube::ObjectKey& deployment, int index) override;
  // Ends all groups of a deployment.
  void StopAll(const kube::ObjectKey& deployment);
  // Forgets all groups of a deployment; their workers run on.
  void Remove(const kube::ObjectKey& deployment);
  void Clear();

  // What became of their pods. A pod below its slot's claim in `claimed` is no member, even if none
  // above it exists yet: a leader that is gone may have made it late.
  void ObservePods(const kube::ObjectKey& deployment,
                   const std::vector<reconcile::ObservedPod>& pods,
                   const api::MoEDeploymentStatus& claimed);

  bool Has(const kube::ObjectKey& deployment, int index) const;
  std::vector<reconcile::ObservedGroup> Observe(const kube::ObjectKey& deployment) const;
  std::optional<api::ExpertLoadStatus> ExpertLoad(const kube::ObjectKey& deployment,
                                                  absl::Time now) const;

 private:
  struct Group;
  using GroupPtr = std::shared_ptr<Group>;

  void OnState(const kube::ObjectKey& deployment, Group* group,
               const coordinator::v1::GroupState& state);
  std::vector<GroupPtr> Of(const kube::ObjectKey& deployment) const;

  coordinator::CoordinatorServer* const server_;
  kube::Api* const api_;
  OperatorMetrics* const metrics_;
  const Callbacks callbacks_;

  mutable absl::Mutex mu_;
  std::map<kube::ObjectKey, std::map<int, GroupPtr>> groups_ ABSL_GUARDED_BY(mu_);
};

// "namespace/name/index".
std::string GroupNameOf(const kube::ObjectKey& deployment, int index);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_GROUPS_H_
