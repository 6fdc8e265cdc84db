// Time for deadlines: it never jumps, and it also passes while the machine sleeps or the process is
// stopped. It says nothing of the date.
#ifndef MOE_CONTROLLER_KUBE_CLOCK_H_
#define MOE_CONTROLLER_KUBE_CLOCK_H_

#include <ctime>

#include "absl/time/time.h"

namespace moe::kube {

inline absl::Time MonotonicNow() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return absl::UnixEpoch() + absl::DurationFromTimespec(now);
}

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_CLOCK_H_
