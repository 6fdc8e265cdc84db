// A Kubernetes client: JSON over HTTP/1.1, as small as this controller's needs.
//
// Thread-safe; a thread that finds no idle connection makes one. Every request is bounded: in time
// (request_timeout from sending to the last byte, connect_timeout before that, and the wait for the
// rate limit), in bytes (max_response_bytes) and in the depth of its JSON. Besides api.h's errors:
//   Internal             an answer that is no JSON object
//   FailedPrecondition   an answer, or a list, above its limit
//   InvalidArgument      a name that is empty or can't be one; nothing is sent
// Errors name the verb, the type and the object. RetryAfter() of answer.h tells how long the server
// asked to wait. Nothing is tried twice here but what certainly was not done: a request that was
// refused because the token has been replaced, and a read whose idle connection the server closed.
//
// Tokens are never logged. Tested by tests/controller/kube/client_test.cc and client_tls_test.cc.
#ifndef MOE_CONTROLLER_KUBE_CLIENT_H_
#define MOE_CONTROLLER_KUBE_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/kube/connection.h"
#include "controller/kube/credentials.h"
#include "controller/kube/rate_limiter.h"

namespace moe::kube {

struct WatchOptions {
  ResourceType type;
  std::string ns = {};        // empty: all
  std::string selector = {};  // of labels
  std::string resource_version = {};
  // After which the server ends the stream; it must be renewed then.
  absl::Duration duration = absl::Minutes(5);
  // Without a byte for so long the connection is given up. API servers send a bookmark each minute.
  absl::Duration silence = absl::Minutes(3);
};

// One stream of events over a connection of its own. Run is called once, by one thread; Cancel by
// any.
class WatchConnection {
 public:
  // Gives `on_bytes` what comes until the stream ends or it returns false. Ok: the server ended the
  // stream in order. Cancelled: on_bytes or Cancel did. Unavailable: the connection broke, or was
  // silent. Else as api.h says.
  absl::Status Run(const WatchOptions& options,
                   absl::FunctionRef<bool(absl::string_view)> on_bytes);
  // Ends Run. A connection that is just being made is noticed when it stands, so call it again
  // until Run has returned.
  void Cancel();

 private:
  friend class Client;
  explicit WatchConnection(std::unique_ptr<Connection> connection, httplib::Headers headers)
      : connection_(std::move(connection)), headers_(std::move(headers)) {}

  const std::unique_ptr<Connection> connection_;
  const httplib::Headers headers_;
  std::atomic<bool> cancelled_{false};
};

class Client : public Api {
 public:
  // Checks the options and reads the files, but sends nothing. Makes the process ignore SIGPIPE,
  // which a broken TLS connection would raise.
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ClientOptions& options);

  absl::StatusOr<Json> Get(const ResourceType& type, const ObjectKey& key) override;
  // metadata.resourceVersion is where a watch goes on. Items carry apiVersion and kind, unlike the
  // server's. A list that became too old between two pages is begun anew, up to three times.
  absl::StatusOr<Json> List(const ResourceType& type, const std::string& ns,
                            const std::string& selector) override;
  absl::StatusOr<Json> Create(const ResourceType& type, const std::string& ns, const Json& object,
                              bool dry_run = false) override;
  absl::StatusOr<Json> Update(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> UpdateStatus(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> Apply(const ResourceType& type, const Json& object) override;
  absl::StatusOr<Json> MergePatch(const ResourceType& type, const ObjectKey& key,
                                  const Json& patch) override;
  absl::Status Delete(const ResourceType& type, const ObjectKey& key,
                      const DeleteOptions& options) override;

  absl::StatusOr<std::unique_ptr<WatchConnection>> OpenWatch();

  // How often the server answered again after a request that got no answer. Counts up.
  int64_t num_returns() const { return num_returns_.load(std::memory_order_relaxed); }

  // From now on every call is Cancelled, those in progress too; watches have their own Cancel.
  void Shutdown();

 private:
  struct Call;    // a request
  struct Answer;  // what came back

  Client(const ClientOptions& options, ServerAddress address);

  absl::StatusOr<httplib::Headers> MakeHeaders(std::string* token);
  // Waits for the rate limit. Unavailable: longer than a request may take.
  absl::Status AwaitTurn(const Call& call);
  absl::StatusOr<Json> Send(const Call& call);
  absl::StatusOr<Answer> Exchange(const Call& call, const httplib::Headers& headers);
  // False after Shutdown.
  bool Enter(const Connection& connection);
  // True after Shutdown.
  bool Leave(const Connection& connection);
  absl::StatusOr<Json> ListOnce(const ResourceType& type, const std::string& ns,
                                const std::string& selector);
  absl::StatusOr<Json> Put(const ResourceType& type, const Json& object,
                           const std::string& subresource);

  const ClientOptions options_;
  const ServerAddress address_;
  std::optional<TokenFile> token_;
  ConnectionPool pool_;
  std::atomic<bool> is_silent_{false};  // the last request got no answer
  std::atomic<int64_t> num_returns_{0};
  absl::Mutex mutex_;
  RateLimiter limiter_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<httplib::ClientImpl*> active_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_CLIENT_H_
