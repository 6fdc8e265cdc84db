#include "controller/kube/rate_limiter.h"

#include <algorithm>

namespace moe::kube {

void RateLimiter::Refill(absl::Time now) {
  if (last_ != absl::InfinitePast() && now > last_) {
    tokens_ = std::min(burst_, tokens_ + absl::ToDoubleSeconds(now - last_) * per_second_);
  }
  last_ = std::max(last_, now);
}

absl::Duration RateLimiter::Reserve(absl::Time now) {
  Refill(now);
  tokens_ -= 1;
  return tokens_ >= 0 ? absl::ZeroDuration() : absl::Seconds(-tokens_ / per_second_);
}

bool RateLimiter::TryTake(absl::Time now) {
  Refill(now);
  if (tokens_ < 1) {
    return false;
  }
  tokens_ -= 1;
  return true;
}

bool RateLimiter::IsFull(absl::Time now) {
  Refill(now);
  return tokens_ >= burst_;
}

}  // namespace moe::kube
