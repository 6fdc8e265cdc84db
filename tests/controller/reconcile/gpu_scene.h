// Models, GPUs and specs for tests of `mode: Auto`.
#ifndef MOE_TESTS_CONTROLLER_RECONCILE_GPU_SCENE_H_
#define MOE_TESTS_CONTROLLER_RECONCILE_GPU_SCENE_H_

#include <string>

#include "controller/api/moe_deployment.h"
#include "controller/reconcile/gpu_inventory.h"

namespace moe::reconcile {

// OLMoE-1B-7B as the inspect pod tells it.
inline api::ModelStatus Olmoe(const std::string& uri = "pvc://models/demo") {
  return {.uri = uri,
          .num_layers = 16,
          .num_experts = 64,
          .top_k = 8,
          .weight_bytes = 13838323712,
          .shape = api::ModelShapeStatus{.hidden = 2048,
                                         .intermediate = 1024,
                                         .num_heads = 16,
                                         .num_kv_heads = 16,
                                         .head_dim = 128,
                                         .vocab_size = 50304,
                                         .max_positions = 4096,
                                         .tied_embeddings = false}};
}

// The numbers of planner/devices/h100.json and of the library nccl with a link of 400 Gb/s.
inline planner::Device H100() {
  return {.name = "h100",
          .title = "NVIDIA H100 SXM, 80 GB",
          .products = {"NVIDIA-H100-80GB-HBM3"},
          .memory_bytes = 80e9,
          .memory_bytes_per_second = 3.35e12,
          .bf16_flops = 989e12,
          .fp8_flops = 1979e12,
          .node_link_bytes_per_second = 450e9,
          .memory_efficiency = 0.8,
          .compute_efficiency = 0.8};
}

inline planner::Network Nccl400() {
  return {.link_name = "ndr400",
          .link_bytes_per_second = 50e9,
          .gpus_per_node = 1,
          .library = {.name = "nccl",
                      .title = "NCCL collectives started by the host",
                      .dispatch_latency_seconds = 102e-6,
                      .combine_latency_seconds = 102e-6,
                      .node_dispatch_latency_seconds = 24e-6,
                      .node_combine_latency_seconds = 24e-6,
                      .link_efficiency = 0.92,
                      .node_link_efficiency = 0.87}};
}

// `num_nodes` nodes of `gpus` each; none for 0.
inline GpuInventory H100Nodes(int num_nodes, int gpus = 8) {
  GpuInventory inventory;
  inventory.network = Nccl400();
  if (num_nodes > 0) {
    inventory.pools.push_back({.product = "NVIDIA-H100-80GB-HBM3",
                               .memory_bytes = int64_t{81559} << 20,
                               .nodes_by_gpus = {{gpus, num_nodes}},
                               .device = H100()});
  }
  return inventory;
}

inline api::MoEDeploymentSpec AutoOnGpus(int gpus_per_pod = 8, int replicas = 1) {
  api::MoEDeploymentSpec spec;
  spec.model = {"olmoe", "pvc://models/demo"};
  spec.backend = api::Backend::kCuda;
  spec.parallelism.automatic = true;
  spec.worker.gpus_per_pod = gpus_per_pod;
  spec.replicas = replicas;
  return spec;
}

}  // namespace moe::reconcile

#endif  // MOE_TESTS_CONTROLLER_RECONCILE_GPU_SCENE_H_
