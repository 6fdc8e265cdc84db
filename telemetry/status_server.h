// A process's own small HTTP listener, for its kubelet and for Prometheus: GET /healthz, /metrics
// and, where there is something to be ready for, /readyz.
//
// Its threads are its own; it bounds connections, bodies and time, so that whoever reaches the port
// can't hold the process up.
//
// Tested by tests/telemetry/status_server_test.cc.
#ifndef MOE_TELEMETRY_STATUS_SERVER_H_
#define MOE_TELEMETRY_STATUS_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"

namespace moe::telemetry {

struct StatusServerOptions {
  // HOST:PORT; port 0 takes a free one.
  std::string address;
  // Not owned; must outlive the server.
  const prometheus::Collectable* metrics = nullptr;
  // Why the process is not ready, which is then the answer's text; empty: it is. Called by the
  // server's threads. Without it /readyz is not found.
  std::function<std::string()> not_ready_reason;
};

class StatusServer {
 public:
  // InvalidArgument for a malformed address, Unavailable when it can't be bound.
  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(StatusServerOptions options);
  ~StatusServer();
  StatusServer(const StatusServer&) = delete;
  StatusServer& operator=(const StatusServer&) = delete;

  // HOST:PORT with the port that was taken.
  const std::string& address() const { return address_; }
  int port() const { return port_; }

 private:
  struct State;
  StatusServer(std::unique_ptr<State> state, std::string address, int port);

  std::unique_ptr<State> state_;
  std::string address_;
  int port_;
};

}  // namespace moe::telemetry

#endif  // MOE_TELEMETRY_STATUS_SERVER_H_
