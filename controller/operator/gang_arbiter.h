// One gang of the whole cluster is scheduled at a time: two that each get half of the GPUs would
// wait for each other.
//
// Remembers which deployments have a gang in flight (reconcile::GangInFlight) as of the newest
// status that was seen of each, and which wait for their turn. Thread-safe. Tested by
// tests/controller/operator/parts_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_GANG_ARBITER_H_
#define MOE_CONTROLLER_OPERATOR_GANG_ARBITER_H_

#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "controller/kube/api.h"

namespace moe::controller {

class GangArbiter {
 public:
  // What the status of `deployment` says. Returns true if its gang has ended, so that another
  // deployment's may begin.
  bool Observe(const kube::ObjectKey& deployment, std::optional<int> group_in_flight);
  // "namespace/name/index" of another deployment's, or empty.
  std::string OtherInFlight(const kube::ObjectKey& deployment) const;
  // Before a status that puts a gang of `deployment` in flight is written: false if another one's
  // is.
  bool TryStart(const kube::ObjectKey& deployment, int group);
  // What the plan for `deployment` says (Plan.waits_for_turn). Returns true if it has begun to
  // wait: whoever is in flight may have to give its turn away.
  bool SetWaiting(const kube::ObjectKey& deployment, bool waits);
  bool OthersWait(const kube::ObjectKey& deployment) const;
  void Clear();

 private:
  // A gang in flight that is not one of `deployment`, or the end.
  std::map<kube::ObjectKey, int>::const_iterator FindOther(const kube::ObjectKey& deployment) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::map<kube::ObjectKey, int> in_flight_ ABSL_GUARDED_BY(mu_);
  std::set<kube::ObjectKey> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_GANG_ARBITER_H_
