// A status of which every field differs from its default: what it becomes as JSON has every key.
#ifndef MOE_TESTS_CONTROLLER_API_FULL_STATUS_H_
#define MOE_TESTS_CONTROLLER_API_FULL_STATUS_H_

#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"

namespace moe::api {

absl::Time FullStatusTime();  // that its times are, or begin with
MoEDeploymentStatus FullStatus();

}  // namespace moe::api

#endif  // MOE_TESTS_CONTROLLER_API_FULL_STATUS_H_
