// Connections to the API server: TLS with verification, and a pool of those that are kept alive.
//
// Tested by tests/controller/kube/client_test.cc and client_tls_test.cc.
#ifndef MOE_CONTROLLER_KUBE_CONNECTION_H_
#define MOE_CONTROLLER_KUBE_CONNECTION_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/credentials.h"
#include "httplib.h"

namespace moe::kube {

// One TCP connection, made when its first request is sent. Used by one thread at a time.
struct Connection {
  std::unique_ptr<httplib::ClientImpl> http;
  absl::Time since;
  bool reused = false;  // the server may have closed it meanwhile
};

// A connection that is not open yet. InvalidArgument: a certificate or key can't be read.
absl::StatusOr<std::unique_ptr<Connection>> MakeConnection(const ClientOptions& options,
                                                           const ServerAddress& address);

// "no connection", "the certificate is not signed by ...": for people.
std::string DescribeError(httplib::Error error);

// From the answer's header.
std::optional<absl::Duration> RetryAfterOf(const httplib::Response& response);

// Thread-safe.
class ConnectionPool {
 public:
  ConnectionPool(const ClientOptions& options, ServerAddress address)
      : options_(options), address_(std::move(address)) {}

  absl::StatusOr<std::unique_ptr<Connection>> Take();
  // After a request that went well.
  void Return(std::unique_ptr<Connection> connection);
  // Drops those that wait for their next request.
  void Clear();

 private:
  const ClientOptions options_;
  const ServerAddress address_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_CONNECTION_H_
