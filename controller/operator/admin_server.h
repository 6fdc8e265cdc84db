// The controller's own HTTP listener: GET /healthz, /readyz and /metrics.
//
// /healthz answers while the process does. /readyz says whether this controller can do its part, as
// leader or as standby; a reason that it can't is the answer's text.
//
// Tested by tests/controller/operator/admin_server_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_ADMIN_SERVER_H_
#define MOE_CONTROLLER_OPERATOR_ADMIN_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"

namespace moe::controller {

class AdminServer {
 public:
  // Why this controller is not ready; empty: it is. Called by the server's threads.
  using Readiness = std::function<std::string()>;

  // Listens on all addresses (`host` 0.0.0.0) or one; port 0 takes a free one. `metrics` must
  // outlive the server. Unavailable: the port is taken.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& host, int port,
                                                            Readiness readiness,
                                                            const prometheus::Collectable* metrics);
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  int port() const { return port_; }

 private:
  struct State;
  AdminServer(std::unique_ptr<State> state, int port);

  std::unique_ptr<State> state_;
  int port_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_ADMIN_SERVER_H_
