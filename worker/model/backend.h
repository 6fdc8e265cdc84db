// What computes a rank: the CPU (cpu_backend.h) or a GPU (worker/cuda/backend.h). A process has one
// backend for its life, and one rank.
#ifndef MOE_WORKER_MODEL_BACKEND_H_
#define MOE_WORKER_MODEL_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/context.h"
#include "worker/exchange/device_exchange.h"
#include "worker/exchange/exchange.h"
#include "worker/model/checkpoint.h"
#include "worker/model/decoder.h"
#include "worker/model/expert_counts.h"
#include "worker/model/step_times.h"

namespace moe::model {

// What a rank has to hold and to run.
struct RankSpec {
  int rank = 0;
  int num_ranks = 1;
  std::vector<int> experts;  // ascending ids
  bool attention = true;
  bool replicated = false;      // every rank computes attention for all rows
  int max_rows = 512;           // of one owner in one step
  int max_positions = 0;        // longest sequence; 0: the model's
  uint64_t kv_bytes = 0;        // KV cache; 0: what is left of a GPU's memory
  uint64_t exchange_bytes = 0;  // of a GPU's memory, left to an exchange that allocates it itself
  int num_threads = 1;          // of the host, for attention and sampling
  // A GPU that is a group of its own and does not end a step within this time counts as lost. In
  // other groups the exchange sees to that.
  absl::Duration step_deadline = absl::Seconds(10);
};

// The exchange of an epoch, as its kind has it: one of the two.
struct RankExchange {
  exchange::Exchange* host = nullptr;
  exchange::DeviceExchange* device = nullptr;
};

// A rank that is loaded. For the engine thread, but for expert_counts.
class RankModel {
 public:
  virtual ~RankModel() = default;

  virtual const LoadReport& report() const = 0;
  // Where everything lies; one line for the log, or empty.
  virtual std::string description() const = 0;

  // Null, and no blocks, for a rank that only holds experts.
  virtual Decoder* decoder() = 0;
  virtual int num_kv_blocks() const = 0;
  // What the host draws tokens with.
  virtual const kernels::Context& context() const = 0;
  virtual const ExpertCounts& expert_counts() const = 0;

  // This rank's experts, for rows in the memory of the host or of the device: one of the two.
  virtual exchange::LocalExperts* host_experts() { return nullptr; }
  virtual exchange::DeviceExperts* device_experts() { return nullptr; }

  // The layers of an epoch. What the exchange points to must outlive them. A GPU that is a group of
  // its own needs no exchange. FailedPrecondition for a kind of exchange that this backend does not
  // have.
  virtual absl::StatusOr<std::unique_ptr<LayerLoop>> MakeLayers(const RankExchange& exchange) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Output bits are the same for the same id: see coordinator.proto, Hello.
  virtual std::string numerics_id() const = 0;
  // Whether rows and experts lie in the memory of a GPU, so that ranks exchange between GPUs.
  virtual bool on_device() const = 0;
  // Whether `status`, which came from loading or from a step, means that the device is lost:
  // nothing can be computed in this process any more.
  virtual bool IsLost(const absl::Status& status) const = 0;

  // Loads the rank's tensors. `checkpoint` must outlive the rank, and so must `times`, which may be
  // null. ResourceExhausted says how much memory is needed; InvalidArgument and FailedPrecondition
  // what this backend can't run.
  virtual absl::StatusOr<std::unique_ptr<RankModel>> Load(const Checkpoint& checkpoint,
                                                          const RankSpec& spec, StepTimes* times,
                                                          const Checkpoint::Progress& progress) = 0;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_BACKEND_H_
