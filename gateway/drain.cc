#include "gateway/drain.h"

#include <algorithm>

namespace moe::gateway {

Drain::Drain(const DrainOptions& options, absl::Time start, uint64_t num_taken)
    : quiet_(options.quiet),
      last_start_(options.quiet == absl::ZeroDuration()
                      ? start
                      : start + std::max(options.quiet, (options.quiet + options.finish) / 2)),
      deadline_(start + options.quiet + options.finish),
      quiet_since_(start),
      num_taken_(num_taken) {}

Drain::Phase Drain::Next(absl::Time now, uint64_t num_taken, int num_active) {
  if (num_taken != num_taken_) {
    num_taken_ = num_taken;
    quiet_since_ = now;
  }
  takes_ = takes_ && now < last_start_ && now - quiet_since_ < quiet_;
  if (takes_) return Phase::kTakes;
  return num_active == 0 || now >= deadline_ ? Phase::kOver : Phase::kFinishes;
}

}  // namespace moe::gateway
