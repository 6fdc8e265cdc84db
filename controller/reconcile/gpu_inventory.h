// The GPUs on which the workers of a deployment may run, as nodes tell them. Values.
// From Node objects: controller/operator/observe_nodes.h.
//
// Tested by tests/controller/reconcile/gpu_inventory_test.cc.
#ifndef MOE_CONTROLLER_RECONCILE_GPU_INVENTORY_H_
#define MOE_CONTROLLER_RECONCILE_GPU_INVENTORY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "planner/hardware.h"

namespace moe::reconcile {

// Nodes whose GPUs are of one kind.
struct GpuPool {
  std::string product;               // label nvidia.com/gpu.product
  int64_t memory_bytes = 0;          // of one GPU, by the label nvidia.com/gpu.memory; 0: not told
  std::map<int, int> nodes_by_gpus;  // how many nodes have so many GPUs
  // The planner's description of the product; empty: it has none.
  std::optional<planner::Device> device = {};

  int num_nodes() const;
  int num_gpus() const;
  // GPUs that pods of so many can have: what is left over on a node is lost to them.
  int UsableBy(int gpus_per_pod) const;
  // Of the node that has the fewest. REQUIRES: there is a node.
  int MinGpusOfNode() const { return nodes_by_gpus.begin()->first; }
};

struct GpuInventory {
  std::vector<GpuPool> pools;  // by product
  // Nodes with GPUs that are not counted, by why: "cordoned", "of another nodeSelector", ...
  std::map<std::string, int> left_out;
  planner::Network network = {};  // assumed: no label tells it
};

// "64 x NVIDIA-H100-80GB-HBM3 on 8 nodes, 8 x NVIDIA-L40S on 2 nodes"; "none".
std::string DescribeGpus(const GpuInventory& inventory);
// "; 2 nodes with GPUs are not counted: 1 is cordoned, ..."; empty if there is none.
std::string DescribeLeftOut(const GpuInventory& inventory);

}  // namespace moe::reconcile

#endif  // MOE_CONTROLLER_RECONCILE_GPU_INVENTORY_H_
