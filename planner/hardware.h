// GPUs and what joins them, as the cost model sees them. Values; they come from the data files in
// devices/, links/ and exchanges/, which carry the source of each number.
#ifndef MOE_PLANNER_HARDWARE_H_
#define MOE_PLANNER_HARDWARE_H_

#include <optional>
#include <string>
#include <vector>

namespace moe::planner {

// The cores of a machine whose ranks all compute on them and take turns: their work adds up, where
// ranks with a GPU each wait for the busiest.
struct SharedCores {
  int num_cores = 1;
  double core_bytes_per_second = 0;  // of the memory, that one core alone reaches
};

// What the host of a device adds to the computation of one attention rank, as it was measured.
struct HostTimes {
  double step_seconds = 0;   // the plan's way to the ranks and the tokens' way back
  double layer_seconds = 0;  // what a layer of few rows takes beside its weights
};

// One GPU, or the cores of a machine. Peaks are the vendor's, or measured; efficiencies are the
// share of them that kernels reach.
struct Device {
  std::string name = {};
  std::string title = {};
  // What Kubernetes nodes with it carry as their label nvidia.com/gpu.product; may be empty.
  std::vector<std::string> products = {};
  double memory_bytes = 0;
  double memory_bytes_per_second = 0;
  double bf16_flops = 0;                  // dense
  double fp8_flops = 0;                   // dense; 0: has no fp8
  double node_link_bytes_per_second = 0;  // to the other GPUs of its node, one way (NVLink or PCIe)
  double memory_efficiency = 1;
  double compute_efficiency = 1;
  // Of the shorter of reading and computing, the share that hides behind the longer. 1: all of it,
  // a roofline.
  double read_overlap = 1;
  // Reached by scores and values over the KV cache; 0: as by matrix products.
  double attention_flops = 0;
  std::optional<SharedCores> shared_cores = {};  // none: each rank has a device of its own
  std::optional<HostTimes> host = {};            // in place of what is assumed

  // Whether kernels and host were measured on it (`moe calibrate`).
  bool calibrated() const { return host.has_value(); }
  // Of a weight of that many bytes.
  double flops(double bytes_per_weight) const {
    return (bytes_per_weight <= 1 && fp8_flops > 0 ? fp8_flops : bf16_flops) * compute_efficiency;
  }
  double bandwidth() const { return memory_bytes_per_second * memory_efficiency; }
};

// What moves rows between GPUs. A phase (dispatch or combine) takes its latency plus the time of
// its bytes on the slower of the two kinds of link.
struct ExchangeLibrary {
  std::string name = {};
  std::string title = {};
  // Counts stay on the GPU: an exchange of exact counts can be captured in a graph. Otherwise it
  // needs one read-back by the host in each layer.
  bool started_by_device = false;
  double dispatch_latency_seconds = 0;  // over the network
  double combine_latency_seconds = 0;
  double node_dispatch_latency_seconds = 0;  // within a node
  double node_combine_latency_seconds = 0;
  double link_efficiency = 1;
  double node_link_efficiency = 1;
  // Rows cross the network once for each node and are spread (and summed) inside it, as DeepEP's
  // kernels for throughput do. Sums inside a node are not this project's rule; it bounds what
  // others reach.
  bool forwards_within_node = false;
  // Of each message within a node, where ranks take turns to send and receive them. A message is
  // what one owner has for another rank in one layer.
  double node_message_seconds = 0;
  // A rank runs its experts for the rows of each owner apart, and reads their weights as often.
  bool owners_apart = false;
  // Nothing is known of it over a network: groups that span nodes are refused.
  bool within_node_only = false;
};

// GPUs in nodes of equal size. Each GPU has its own network link (one adapter for each GPU).
struct Network {
  std::string link_name = {};
  double link_bytes_per_second = 0;  // one way, of one GPU
  int gpus_per_node = 8;
  ExchangeLibrary library = {};
};

// Whether the exchange hides behind computation.
enum class Overlap {
  kNone,
  // Two halves of a batch take turns where that is faster: one's exchange hides behind the other's
  // computation, and both read the weights and wait for latency.
  kHalfBatches,
  kFree,  // it hides and costs nothing: a bound, no way to do it
};

// What no data sheet says. Each is assumed until it is measured on hardware.
struct Assumptions {
  // Beside weights, KV cache and buffers: driver, kernels, communicators.
  double reserved_bytes = 3e9;
  // Rows of one attention rank in one step of prompts; buffers are made for so many.
  int prefill_rows = 4096;
  // Of a step: the plan's way to the ranks and the tokens' way back.
  double step_host_seconds = 50e-6;
  // Of a layer in a captured graph: about 12 kernels, about 1.2 us between two.
  double captured_layer_seconds = 15e-6;
  // Of a layer that the host starts: the same kernels, and one read-back of counts.
  double eager_layer_seconds = 60e-6;
  Overlap overlap = Overlap::kNone;
  // The busiest expert beside the mean over a long time, as `moe experts` prints it. 1: a router
  // without favourites.
  double router_max_over_mean = 1;
};

// What bounds every system: peaks reached, nothing waits for the host or for latency, and the
// exchange hides behind computation.
Device Ideal(Device device);
Network Ideal(Network network);
Assumptions IdealAssumptions();

}  // namespace moe::planner

#endif  // MOE_PLANNER_HARDWARE_H_
