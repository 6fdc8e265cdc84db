// The pods of a group: one for each slot, and the one that looks at the model before them.
//
// Pure. Tested by tests/controller/manifests/worker_pod_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_WORKER_POD_H_
#define MOE_CONTROLLER_MANIFESTS_WORKER_POD_H_

#include <string>
#include <vector>

#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"
#include "controller/manifests/context.h"

namespace moe::manifests {

// Which worker of its deployment a pod is.
struct WorkerPlace {
  int group = 0;
  int slot = 0;
  int incarnation = 0;
  int num_slots = 1;  // pods of the group, without spares
  std::string revision = {};
  bool gated = false;  // not to be scheduled until its gang is complete
  int rank = -1;       // its first; -1: decided when the gang is scheduled
  std::vector<std::string> avoid_nodes = {};
};

// REQUIRES: a spec that was accepted.
kube::Json WorkerPod(const api::MoEDeployment& deployment, const Context& context,
                     const WorkerPlace& place);

// Mounts what a worker mounts, takes no GPU, and writes what it found out to its termination
// message.
kube::Json InspectPod(const api::MoEDeployment& deployment, const Context& context);

// Threads that each of `num_processes` workers of a pod may use, by its container's CPU limit or
// request; at least 1.
int ThreadsOf(const kube::Json& worker_pod, int num_processes);

// What the pod's annotation tells people: "8", or "8-15" for a pod of several.
std::string RanksText(int first, int num_ranks);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_WORKER_POD_H_
