// A token bucket. Pure: time is given to it.
//
// Not thread-safe. Tested by tests/controller/kube/rate_limiter_test.cc.
#ifndef MOE_CONTROLLER_KUBE_RATE_LIMITER_H_
#define MOE_CONTROLLER_KUBE_RATE_LIMITER_H_

#include "absl/time/time.h"

namespace moe::kube {

class RateLimiter {
 public:
  // `per_second` tokens come back each second, up to `burst`; it begins full. REQUIRES: both > 0.
  RateLimiter(double per_second, double burst)
      : per_second_(per_second), burst_(burst), tokens_(burst) {}

  // Takes one token and returns how long to wait before using it. Tokens may be taken ahead of
  // time, so who comes later waits longer.
  absl::Duration Reserve(absl::Time now);
  // Takes one token if there is one.
  bool TryTake(absl::Time now);
  // Gives back a token that was reserved and not used.
  void Return() { tokens_ += 1; }
  // Nothing was taken, or all of it has come back.
  bool IsFull(absl::Time now);

 private:
  void Refill(absl::Time now);

  const double per_second_;
  const double burst_;
  double tokens_;  // below 0: reserved ahead
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_RATE_LIMITER_H_
