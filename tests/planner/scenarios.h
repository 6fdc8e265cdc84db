// Hardware with round numbers, so that what a test expects can be computed by hand.
#ifndef MOE_TESTS_PLANNER_SCENARIOS_H_
#define MOE_TESTS_PLANNER_SCENARIOS_H_

#include "planner/prediction.h"
#include "planner/published_models.h"

namespace moe::planner {

// The H200 of the roofline table: 4.8 TB/s, 790 bf16 TFLOP/s.
inline Device RooflineH200() {
  return {.name = "h200",
          .title = "H200",
          .memory_bytes = 141e9,
          .memory_bytes_per_second = 4.8e12,
          .bf16_flops = 790e12,
          .fp8_flops = 1580e12,
          .node_link_bytes_per_second = 450e9};
}

inline ExchangeLibrary SlowLibrary() {
  return {.name = "slow",
          .title = "a library started by the host",
          .dispatch_latency_seconds = 100e-6,
          .combine_latency_seconds = 100e-6,
          .node_dispatch_latency_seconds = 20e-6,
          .node_combine_latency_seconds = 20e-6};
}

inline ExchangeLibrary FastLibrary() {
  return {.name = "fast",
          .title = "a library started by the GPU",
          .started_by_device = true,
          .dispatch_latency_seconds = 10e-6,
          .combine_latency_seconds = 10e-6,
          .node_dispatch_latency_seconds = 5e-6,
          .node_combine_latency_seconds = 5e-6};
}

inline Scenario OlmoeOn(int num_gpus) {
  return {.model = Olmoe1b7b(),
          .device = RooflineH200(),
          .network = {.link_name = "400Gb/s",
                      .link_bytes_per_second = 50e9,
                      .gpus_per_node = 8,
                      .library = SlowLibrary()},
          .num_gpus = num_gpus};
}

inline Layout Founding() { return ParseLayout("EP64_TP1_PP1_DP1").value(); }

}  // namespace moe::planner

#endif  // MOE_TESTS_PLANNER_SCENARIOS_H_
