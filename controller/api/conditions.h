// The conditions of a resource's status: one per type, sorted by type. Pure.
//
// Tested by tests/controller/api/conditions_test.cc.
#ifndef MOE_CONTROLLER_API_CONDITIONS_H_
#define MOE_CONTROLLER_API_CONDITIONS_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"

namespace moe::api {

// Puts `condition` in the place of the one of its type. Its last_transition becomes `now` if it is
// new or the status is another one, and else stays what it was; what `condition` says of it is not
// used.
// REQUIRES: a type, a reason, and True, False or Unknown as the status.
void SetCondition(std::vector<Condition>* conditions, Condition condition, absl::Time now);

void RemoveCondition(std::vector<Condition>* conditions, absl::string_view type);

// nullptr if there is none. Points into `conditions`.
const Condition* FindCondition(const std::vector<Condition>& conditions, absl::string_view type);

// Its status is True; false where it is not there.
bool IsTrue(const std::vector<Condition>& conditions, absl::string_view type);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_CONDITIONS_H_
