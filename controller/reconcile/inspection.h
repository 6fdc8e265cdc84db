// Reads the model before any GPU is taken: starts the inspect pod, keeps what it found, and tries
// again after a failure.
//
// Pure. Tested by tests/controller/reconcile/status_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_INSPECTION_H_
#define MOE_CONTROLLER_RECONCILE_INSPECTION_H_

#include <string>

#include "absl/time/time.h"
#include "controller/reconcile/decision.h"

namespace moe::reconcile {

// A failed inspection is repeated after as long as the model has been unreadable already, within
// these bounds; and at once when the spec changes.
inline constexpr absl::Duration kFirstInspectionRetry = absl::Seconds(30);
inline constexpr absl::Duration kMaxInspectionRetry = absl::Minutes(10);

// For the condition ModelReady.
struct ModelState {
  std::string status;  // True, False, Unknown
  std::string reason;
  std::string message;
};

// Sets status.model. REQUIRES: spec_status is OK.
ModelState DecideModel(Decision* decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_INSPECTION_H_
