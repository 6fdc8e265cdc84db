// How a client reaches its API server and who it is there.
//
// Tested by tests/controller/kube/credentials_test.cc.
#ifndef MOE_CONTROLLER_KUBE_CREDENTIALS_H_
#define MOE_CONTROLLER_KUBE_CREDENTIALS_H_

#include <cstddef>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace moe::kube {

struct ClientOptions {
  // "https://HOST[:PORT]". Plain http only to loopback addresses.
  std::string server = {};
  // PEM file of the authorities that sign the server's certificate. Needed for https: the system's
  // authorities have no say here.
  std::string ca_file = {};
  // PEM files; both or neither.
  std::string client_cert_file = {};
  std::string client_key_file = {};
  // A bearer token, which may be replaced at any time.
  std::string token_file = {};

  std::string field_manager = "moe-operator";
  std::string user_agent = "moe-controller";
  absl::Duration request_timeout = absl::Seconds(30);
  absl::Duration connect_timeout = absl::Seconds(5);
  size_t max_response_bytes = size_t{64} << 20;
  int page_size = 500;        // objects per page of a list
  int max_list_pages = 2000;  // more: the list is refused
  double qps = 500;
  double burst = 1000;
  int max_idle_connections = 16;
  // Older connections are not used again, so new certificates and API servers are found.
  absl::Duration max_connection_age = absl::Minutes(5);
};

// From what the kubelet puts into every pod. `folder` holds token, ca.crt and namespace.
// FailedPrecondition: this is no pod.
absl::StatusOr<ClientOptions> InClusterOptions(
    const std::string& folder = "/var/run/secrets/kubernetes.io/serviceaccount");
absl::StatusOr<std::string> InClusterNamespace(
    const std::string& folder = "/var/run/secrets/kubernetes.io/serviceaccount");

struct ServerAddress {
  bool tls = false;
  std::string host;  // without brackets
  int port = 0;
};

// InvalidArgument for anything but http(s)://HOST[:PORT][/], and for http to another machine.
absl::StatusOr<ServerAddress> ParseServer(absl::string_view url);

// A token in a file that is replaced now and then. Thread-safe.
class TokenFile {
 public:
  explicit TokenFile(std::string path) : path_(std::move(path)) {}

  // The token, at most 10 seconds old. While the file can't be read: the last one that could.
  absl::StatusOr<std::string> Get(absl::Time now);
  // The server refused `token`: reads the file again. True when it holds another one now.
  bool Refresh(const std::string& token, absl::Time now);

 private:
  absl::Status Read(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  absl::Mutex mutex_;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  absl::Time read_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_CREDENTIALS_H_
