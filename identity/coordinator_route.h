// Where the coordinator that leads is: behind the Service, or where another one has pointed to.
//
// Tested by tests/identity/coordinator_route_test.cc.
#ifndef MOE_IDENTITY_COORDINATOR_ROUTE_H_
#define MOE_IDENTITY_COORDINATOR_ROUTE_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace moe::identity {

// The trailing metadata in which a coordinator that does not lead names the one that does.
inline constexpr char kLeaderMetadata[] = "moe-leader";

// Thread-safe.
class CoordinatorRoute {
 public:
  // The configured address: "unix:PATH" or host:port.
  explicit CoordinatorRoute(std::string service_address);

  // Where to connect next.
  std::string address() const;
  // The host of the configured address, whose name every coordinator's certificate has; empty for
  // a unix socket. See SetTargetName.
  const std::string& target_name() const { return target_name_; }

  // After each call, once it is finished. UNAVAILABLE that names a leader leads there; any other
  // failure at such a place leads back to the configured address. Returns whether address() has
  // changed.
  bool OnCallEnd(const grpc::ClientContext& context, const grpc::Status& status);
  // The same, for tests and for who has the parts. `leader` is empty if none was named.
  bool OnCallEnd(const grpc::Status& status, const std::string& leader);

 private:
  const std::string service_address_;
  const std::string target_name_;
  mutable absl::Mutex mu_;
  std::string leader_ ABSL_GUARDED_BY(mu_);  // empty: the configured address
};

}  // namespace moe::identity

#endif  // MOE_IDENTITY_COORDINATOR_ROUTE_H_
