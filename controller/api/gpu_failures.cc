#include "controller/api/gpu_failures.h"

#include <map>

namespace moe::api {

std::vector<std::string> NodesToAvoid(const MoEDeploymentStatus& status) {
  std::map<std::string, int> counts;
  for (const GpuFailureStatus& failure : status.gpu_failures) {
    ++counts[failure.node];
  }
  std::vector<std::string> nodes;
  for (const auto& [node, count] : counts) {
    if (count >= kGpuFailuresToAvoid) {
      nodes.push_back(node);
    }
  }
  return nodes;
}

}  // namespace moe::api
