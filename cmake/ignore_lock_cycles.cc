// Part of every program and test. The distribution's Abseil is built for debugging: it keeps a
// graph of which lock was taken under which, and ends the process when it finds a cycle. Our code
// is built with NDEBUG, with which a Mutex that ends is not taken out of that graph; a later one at
// the same address inherits what was said of it. So the cycles that are found are noise.
#include "absl/synchronization/mutex.h"

namespace {

[[maybe_unused]] const bool kIgnoresLockCycles = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace
