// What reconciling asks of pods, read once from each version of their JSON: a deployment may have a
// thousand of them, and in a round few have changed.
//
// Not thread-safe. Tested by tests/controller/operator/known_pods_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_KNOWN_PODS_H_
#define MOE_CONTROLLER_OPERATOR_KNOWN_PODS_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "controller/kube/api.h"
#include "controller/operator/observe.h"
#include "controller/reconcile/plan.h"

namespace moe::controller {

struct KnownPod {
  JsonPtr object;
  std::string name;
  std::string uid;
  std::string component;       // manifests::kWorker, kGateway or kInspect
  std::string controller_uid;  // of the owner that controls it; empty: none does
  bool terminating = false;
  bool ended = false;                            // see HasEnded
  std::optional<reconcile::ObservedPod> worker;  // see ObservePod
};

class KnownPods {
 public:
  // Objects never change: what was read of one holds for as long as it is kept, which is until the
  // second Sweep after it was asked for. `pod` is not null.
  const KnownPod& Of(const JsonPtr& pod);

  // Forgets what was not asked for since the last Sweep.
  void Sweep();

  size_t size() const { return pods_.size(); }

 private:
  struct Entry {
    KnownPod pod;
    bool asked = false;
  };
  // By the object, which the entry keeps, so that no other one gets its address.
  std::unordered_map<const kube::Json*, Entry> pods_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_KNOWN_PODS_H_
