// The GPUs on which the workers of one deployment may run, from the cluster's nodes.
//
// A node counts with its allocatable nvidia.com/gpu, as the kind that its label
// nvidia.com/gpu.product names (the NVIDIA device plugin and GPU feature discovery write both). It
// is left out, and counted as such, if it is cordoned, does not carry the labels of the pod
// template's nodeSelector, or has a taint that the template does not tolerate. Not looked at: what
// other pods use, and the template's affinity.
//
// Pure. Tested by tests/controller/operator/observe_nodes_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_OBSERVE_NODES_H_
#define MOE_CONTROLLER_OPERATOR_OBSERVE_NODES_H_

#include <memory>
#include <vector>

#include "controller/kube/api.h"
#include "controller/reconcile/gpu_inventory.h"
#include "planner/hardware.h"

namespace moe::controller {

// The label that a node must have to be looked at.
inline constexpr char kGpuProductLabel[] = "nvidia.com/gpu.product";

// `pod_template`: spec.worker.podTemplate, or null. `devices` are those that the planner knows.
reconcile::GpuInventory ObserveGpus(const std::vector<std::shared_ptr<const kube::Json>>& nodes,
                                    const kube::Json& pod_template,
                                    const std::vector<planner::Device>& devices,
                                    const planner::Network& network);

// Takes out of a Node what ObserveGpus does not read, which is most of it.
void TrimNode(kube::Json* node);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_OBSERVE_NODES_H_
