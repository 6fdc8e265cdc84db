#include "planner/hardware.h"

namespace moe::planner {

Device Ideal(Device device) {
  device.memory_efficiency = 1;
  device.compute_efficiency = 1;
  device.read_overlap = 1;
  device.attention_flops = 0;
  if (device.host.has_value()) device.host = HostTimes();
  return device;
}

Network Ideal(Network network) {
  ExchangeLibrary& library = network.library;
  library = {.name = library.name,
             .title = library.title,
             .started_by_device = true,
             .forwards_within_node = library.forwards_within_node,
             .owners_apart = library.owners_apart,
             .within_node_only = library.within_node_only};
  return network;
}

Assumptions IdealAssumptions() {
  return {.reserved_bytes = 0,
          .step_host_seconds = 0,
          .captured_layer_seconds = 0,
          .eager_layer_seconds = 0,
          .overlap = Overlap::kFree};
}

}  // namespace moe::planner
