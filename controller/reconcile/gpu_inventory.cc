#include "controller/reconcile/gpu_inventory.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moe::reconcile {

int GpuPool::num_nodes() const {
  int count = 0;
  for (const auto& [gpus, nodes] : nodes_by_gpus) {
    count += nodes;
  }
  return count;
}

int GpuPool::num_gpus() const { return UsableBy(1); }

int GpuPool::UsableBy(int gpus_per_pod) const {
  int count = 0;
  for (const auto& [gpus, nodes] : nodes_by_gpus) {
    count += nodes * (gpus / gpus_per_pod) * gpus_per_pod;
  }
  return count;
}

std::string DescribeGpus(const GpuInventory& inventory) {
  std::vector<std::string> parts;
  parts.reserve(inventory.pools.size());
  for (const GpuPool& pool : inventory.pools) {
    parts.push_back(absl::StrCat(pool.num_gpus(), " x ", pool.product, " on ", pool.num_nodes(),
                                 pool.num_nodes() == 1 ? " node" : " nodes"));
  }
  return parts.empty() ? "none" : absl::StrJoin(parts, ", ");
}

std::string DescribeLeftOut(const GpuInventory& inventory) {
  std::vector<std::string> parts;
  int count = 0;
  for (const auto& [why, nodes] : inventory.left_out) {
    count += nodes;
    parts.push_back(absl::StrCat(nodes, " ", why));
  }
  if (parts.empty()) {
    return "";
  }
  return absl::StrCat("; ", count, count == 1 ? " node" : " nodes",
                      " with GPUs not counted: ", absl::StrJoin(parts, ", "));
}

}  // namespace moe::reconcile
