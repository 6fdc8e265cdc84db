// Which workers the spec asks for: the layout, and a name that changes with all that rolls groups.
//
// A revision is a hash of the model's URI, the worker image, the workers' pod template, the layout,
// the engine's limits and the backend. The worker image is the one that the status pins. It is
// pinned when the spec first asks for a revision and again when the spec changes to another one, so
// a new default of an upgraded operator takes effect with the next change of the spec that rolls
// groups, and never by itself.
//
// Pure. Tested by tests/controller/reconcile/status_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_REVISION_H_
#define MOE_CONTROLLER_RECONCILE_REVISION_H_

#include <string>

#include "absl/strings/string_view.h"
#include "controller/api/moe_deployment.h"
#include "controller/reconcile/decision.h"
#include "controller/reconcile/layout_decision.h"

namespace moe::reconcile {

// Differs for texts that differ (FNV-1a): 16 hexadecimal digits.
std::string HashOf(absl::string_view text);

// `layout`: its name is not looked at.
std::string RevisionName(const api::MoEDeploymentSpec& spec, const api::RevisionStatus& layout,
                         absl::string_view worker_image);

struct Target {
  bool known = false;  // status.revision is what the spec asks for, and it can be made
  // Else why not, as a condition's reason and message. `failed`: only a change of the spec helps;
  // an unknown target without it waits for the model.
  bool failed = false;
  std::string reason;
  std::string message;
};

// Sets status.revision, .revisions and the images. REQUIRES: status.model and status.decision were
// brought up to date.
Target DecideTarget(Decision* decision, const AutoState& automatic);

// Keeps of status.revisions the present one and those of groups.
void ForgetRevisions(Decision* decision);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_REVISION_H_
