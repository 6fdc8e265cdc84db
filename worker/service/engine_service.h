// The gRPC server of a worker: gateways reach the leader through it (proto/engine.proto).
//
// Every worker runs one, so that a gateway finds the leader by asking; only rank 0 has a leader
// set.
//
// Tested by tests/worker/service/engine_service_test.cc.
#ifndef MOE_WORKER_SERVICE_ENGINE_SERVICE_H_
#define MOE_WORKER_SERVICE_ENGINE_SERVICE_H_

#include <grpcpp/security/server_credentials.h>

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/engine/leader.h"

namespace moe::engine {

struct EngineServiceOptions {
  std::string address;  // "unix:PATH" or HOST:PORT
  // Null: plaintext, for this machine alone.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  // The deployment ("namespace/name") whose gateways may come, as their certificates say; the
  // credentials must ask for those. Empty: everybody who can connect.
  std::string deployment;
  std::string numerics_id;  // for Welcome
  int max_streams = 16;
  // What a gateway may leave unread before its stream is closed.
  size_t max_queued_bytes = size_t{64} << 20;
  absl::Duration stats_interval = absl::Seconds(1);
  // A stream that says nothing at first is closed after this.
  absl::Duration greeting_deadline = absl::Seconds(10);
  // Stats stop when an epoch runs and the engine thread made no call for so long: longer than the
  // longest step.
  absl::Duration engine_silence = absl::Seconds(15);
};

// Thread-safe.
class EngineService {
 public:
  // A gateway must be ready for a message of this size: one event with the log-probabilities of a
  // long prompt.
  static constexpr int kMaxSentBytes = 64 << 20;

  // Listens at once. Unavailable when the address can't be listened on.
  static absl::StatusOr<std::unique_ptr<EngineService>> Start(const EngineServiceOptions& options);
  // Ends all streams with UNAVAILABLE.
  ~EngineService();
  EngineService(const EngineService&) = delete;
  EngineService& operator=(const EngineService&) = delete;

  // For the leader's events; lives as long as this.
  EventSink* sink();

  // This rank leads: streams are taken from now on. `leader` is not owned; its sink must be this
  // one's. Streams of another leader end with UNAVAILABLE; those of the same one live on.
  void SetLeader(Leader* leader, absl::string_view model_digest);
  // This rank leads no more: ends all streams with UNAVAILABLE. When it returns, the leader is not
  // used any more.
  void ClearLeader();

  // Whether the engine thread is inside an epoch. Outside, it has nothing to call and waits for the
  // controller, however long the next epoch takes: stats go on. Not running at first.
  void SetEpochRunning(bool running);

  int num_streams() const;

 private:
  struct Server;
  explicit EngineService(std::unique_ptr<Server> server);

  const std::unique_ptr<Server> server_;
};

}  // namespace moe::engine

#endif  // MOE_WORKER_SERVICE_ENGINE_SERVICE_H_
