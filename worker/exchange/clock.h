// The clock of every wait in this folder.
#ifndef MOE_WORKER_EXCHANGE_CLOCK_H_
#define MOE_WORKER_EXCHANGE_CLOCK_H_

#include <chrono>
#include <cstdint>

#include "absl/time/time.h"

namespace moe::exchange {

// CLOCK_MONOTONIC, which is also the clock of the futex deadlines.
using Clock = std::chrono::steady_clock;

// Clock::time_point::max(), which is no deadline, for an infinite or absurd duration: adding that
// would overflow the clock.
inline Clock::time_point After(absl::Duration duration) {
  if (duration > absl::Hours(24 * 365)) return Clock::time_point::max();
  return Clock::now() + absl::ToChronoNanoseconds(duration);
}

inline uint64_t NanosecondsSince(Clock::time_point start) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_CLOCK_H_
