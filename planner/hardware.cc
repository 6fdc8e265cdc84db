#include "planner/hardware.h"

namespace moe::planner {

Device Ideal(Device device) {
  device.memory_efficiency = 1;
  device.compute_efficiency = 1;
  return device;
}

Network Ideal(Network network) {
  ExchangeLibrary& library = network.library;
  library = {.name = library.name,
             .title = library.title,
             .started_by_device = true,
             .forwards_within_node = library.forwards_within_node};
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
