// Which nodes have GPUs that fail: a node whose workers lost a GPU twice within a day gets no new
// ones, since a broken GPU is as free as a good one to the scheduler, and would take each
// replacement in turn.
//
// Pure. Tested by tests/controller/api/moe_deployment_test.cc.
#ifndef MOE_CONTROLLER_API_GPU_FAILURES_H_
#define MOE_CONTROLLER_API_GPU_FAILURES_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "controller/api/moe_deployment.h"

namespace moe::api {

inline constexpr int kGpuFailuresToAvoid = 2;
inline constexpr absl::Duration kGpuFailureMemory = absl::Hours(24);

// Names of nodes, sorted.
std::vector<std::string> NodesToAvoid(const MoEDeploymentStatus& status);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_GPU_FAILURES_H_
