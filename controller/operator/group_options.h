// What the coordinator must know of a group, from the revision that its pods were made of. Pure.
//
// Tested by tests/controller/operator/group_options_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_GROUP_OPTIONS_H_
#define MOE_CONTROLLER_OPERATOR_GROUP_OPTIONS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "controller/api/moe_deployment.h"
#include "controller/coordinator/group.h"

namespace moe::controller {

// `attention_threads`: of a rank that computes attention. InvalidArgument for a layout that can't
// be; the status that holds it was damaged.
absl::StatusOr<coordinator::GroupOptions> MakeGroupOptions(const api::RevisionStatus& revision,
                                                           uint32_t attention_threads);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_GROUP_OPTIONS_H_
