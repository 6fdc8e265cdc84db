// What ties one rank to its group in one epoch, whatever moves the rows, and what makes it, one
// epoch after another.
//
// Implemented by host_group_exchange.h for rows in the memory of the host, and by
// nccl_group_exchange.h for rows in the memory of GPUs. Nothing here knows of CUDA.
#ifndef MOE_WORKER_DAEMON_GROUP_EXCHANGE_H_
#define MOE_WORKER_DAEMON_GROUP_EXCHANGE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/tcp_listener.h"
#include "worker/model/backend.h"

namespace moe::worker {

// One rank in one epoch. Threads: Abort, suspect and stats from any; all else from the rank's
// engine thread. What control() and exchange() point to ends with this.
class GroupExchange {
 public:
  virtual ~GroupExchange() = default;

  // What the other ranks need to join: made by rank 0, a secret.
  virtual std::string bootstrap() const = 0;
  // All ranks, once, before any step: until all are there and a canary has passed. Aborted after
  // Abort.
  virtual absl::Status Connect() = 0;

  virtual exchange::ControlChannel* control() = 0;
  virtual model::RankExchange exchange() = 0;

  // Ends every wait of this rank with Aborted, now and later. Idempotent.
  virtual void Abort(std::string_view reason) = 0;
  // The rank that an error was about; -1 for none.
  virtual int suspect() const = 0;
  virtual exchange::ExchangeStats stats() const = 0;
};

struct EpochRequest {
  uint64_t epoch = 0;
  std::string bootstrap;  // that of rank 0, a secret; empty for rank 0 itself
  std::vector<std::string>
      addresses;  // [num_ranks] where each rank's TcpListener is, if it has one
};

// For one rank of one group, once it is loaded. For the engine thread.
class GroupExchangeMaker {
 public:
  virtual ~GroupExchangeMaker() = default;

  // The exchange of an epoch; at most one at a time. Must outlive what it makes. InvalidArgument:
  // what rank 0 gave is no bootstrap of this exchange.
  virtual absl::StatusOr<std::shared_ptr<GroupExchange>> Make(const EpochRequest& request) = 0;
};

// A rank's place in its group: the same for all epochs of a process.
struct RankPlace {
  exchange::GroupShape shape;
  int rank = 0;
  absl::Duration step_deadline = absl::Seconds(10);
};

// The exchange between GPUs, for a program that has one.
class DeviceGroups {
 public:
  virtual ~DeviceGroups() = default;

  // Before weights are loaded: FailedPrecondition says what is missing, where it was looked for and
  // what to do. Once per process.
  virtual absl::Status Load() = 0;
  // What the exchange of a rank will allocate of its GPU's memory.
  virtual uint64_t DeviceBytes(const exchange::GroupShape& shape, int rank) const = 0;
  // For a rank that this process's device backend has loaded: allocates now. `listener`, for plans
  // and results, and `model` are not owned and must outlive the result. Load was OK.
  virtual absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeMaker(
      const RankPlace& place, exchange::TcpListener* listener, model::RankModel* model) = 0;
};

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_GROUP_EXCHANGE_H_
