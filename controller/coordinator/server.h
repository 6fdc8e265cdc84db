// The coordinator of one group: the gRPC service over Group, its clock and its runtime.
//
// One loop thread takes events in order, steps the Group and carries out the actions; gRPC's
// threads and the runtime's only queue events and send what the loop handed them. A session is read
// one message at a time, so that a worker that floods fills its own pipe and nothing here.
//
// Tested by tests/controller/coordinator/server_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_SERVER_H_
#define MOE_CONTROLLER_COORDINATOR_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/coordinator/epoch_store.h"
#include "controller/coordinator/group.h"
#include "controller/runtime/runtime.h"
#include "proto/coordinator.pb.h"

namespace moe::coordinator {

struct CoordinatorOptions {
  // "unix:PATH", in a folder that only this user can enter, or "host:port"; port 0 draws one.
  std::string listen_address;
  // term and last_epoch are taken from the EpochStore.
  GroupOptions group;
  absl::Duration tick = absl::Milliseconds(100);
  // Changes of counters and of loading progress are shown this often.
  absl::Duration publish_interval = absl::Milliseconds(200);
  // Called on the loop thread with each published state; must not block. May be empty.
  std::function<void(const v1::GroupState&)> on_state;
};

// Methods are thread-safe.
class CoordinatorServer {
 public:
  // Listens and starts the workers. `runtime` must outlive the result. InvalidArgument for a
  // placement with holes; Unavailable if the address can't be bound.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(CoordinatorOptions options,
                                                                  std::unique_ptr<EpochStore> store,
                                                                  runtime::Runtime* runtime);

  // Shutdown(absl::ZeroDuration()) if not yet done.
  ~CoordinatorServer();
  CoordinatorServer(const CoordinatorServer&) = delete;
  CoordinatorServer& operator=(const CoordinatorServer&) = delete;

  // Tells the workers that the group stops (phase STOPPING), stops them through the runtime and
  // ends the service. After a failure (phase FAILED) it only does the latter two.
  void Shutdown(absl::Duration grace);

  // The last published state.
  v1::GroupState State() const;
  // "unix:PATH", or host:port with the port that was drawn.
  const std::string& address() const;

 private:
  class Impl;
  explicit CoordinatorServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_SERVER_H_
