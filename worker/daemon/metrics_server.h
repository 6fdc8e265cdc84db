// Answers GET /metrics and GET /healthz on a small listener of its own.
#ifndef MOE_WORKER_DAEMON_METRICS_SERVER_H_
#define MOE_WORKER_DAEMON_METRICS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"

namespace moe::worker {

class MetricsServer {
 public:
  // Listens on host:port (port 0: any free one) and serves `source` from two threads. `source` is
  // not owned and must outlive the server. InvalidArgument for a malformed address, Unavailable
  // when it can't be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, const prometheus::Collectable* source);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // host:port with the real port.
  const std::string& address() const { return address_; }

 private:
  struct State;
  MetricsServer(std::unique_ptr<State> state, std::string address);

  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_METRICS_SERVER_H_
