// Pauses that grow: first, first * 2, ... up to a maximum, each made up to half longer at random,
// so that many clients do not come back together. Pure.
//
// Not thread-safe. Tested by tests/controller/kube/reflector_state_test.cc.
#ifndef MOE_CONTROLLER_KUBE_BACKOFF_H_
#define MOE_CONTROLLER_KUBE_BACKOFF_H_

#include <algorithm>

#include "absl/time/time.h"

namespace moe::kube {

class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration max) : first_(first), max_(max), next_(first) {}

  // `random`: drawn from [0, 1).
  absl::Duration Next(double random) {
    const absl::Duration pause = next_;
    next_ = std::min(max_, next_ * 2);
    return pause * (1 + random / 2);
  }
  void Reset() { next_ = first_; }

 private:
  const absl::Duration first_;
  const absl::Duration max_;
  absl::Duration next_;
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_BACKOFF_H_
