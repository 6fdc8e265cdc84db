// Follows the groups of a deployment over gRPC and drives the journal: one WatchGroups stream to
// the coordinator, one Generate stream to the leader of each group.
//
// A coordinator that does not lead names the one that does; that is asked next. Losing only the
// coordinator disturbs nothing: the last known groups stay.
//
// Tested by tests/gateway/journal/engine_client_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_
#define MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/journal/generation.h"
#include "gateway/journal/journal.h"
#include "gateway/journal/leader_connection.h"
#include "grpcpp/grpcpp.h"
#include "identity/coordinator_route.h"

namespace moe::gateway {

struct EngineCredentials {
  // The coordinator's certificate must be for the host in EngineClientOptions::coordinator, also at
  // the address that another coordinator named.
  std::shared_ptr<grpc::ChannelCredentials> coordinator;
  std::shared_ptr<grpc::ChannelCredentials> leader;
};

struct EngineClientOptions {
  std::string coordinator;  // gRPC target, for example unix:/run/moe/coordinator.sock
  std::string deployment;   // "namespace/name"; empty in local mode
  std::string gateway_id;   // in Greeting
  // Called once, on a thread of the client, before the first connection; may wait until there are
  // some. An error: it was told to stop, and the client connects to nobody. Empty: plaintext, for
  // unix sockets.
  std::function<absl::StatusOr<EngineCredentials>()> credentials;
  JournalOptions journal;
  // Each takes a connection and two threads. The operator allows 64, and as many again while a
  // roll-out surges.
  size_t max_groups = 128;
  absl::Duration welcome_deadline = absl::Seconds(5);  // see LeaderConnectionOptions
  absl::Duration leader_silence = absl::Seconds(15);
  absl::Duration min_backoff = absl::Milliseconds(20);
  absl::Duration max_backoff = absl::Seconds(1);
  // A coordinator this silent is asked again, as its connection may be dead; idle groups give no
  // reason to speak. Sooner while a group lacks a leader.
  absl::Duration coordinator_silence = absl::Seconds(60);
  absl::Duration coordinator_silence_in_need = absl::Seconds(10);
};

// Thread-safe. Starts its threads when made. Ends all generations when destroyed.
class EngineClient : public Generator {
 public:
  explicit EngineClient(EngineClientOptions options);
  ~EngineClient() override;
  EngineClient(const EngineClient&) = delete;
  EngineClient& operator=(const EngineClient&) = delete;

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request) override;
  engine::v1::Welcome welcome() const override;
  EngineView view() const override;
  // Ends all generations Unavailable and starts no more.
  void Stop() { journal_->Stop(); }

 private:
  // The present WatchGroups call, so that another thread can cancel it.
  struct Watch {
    grpc::ClientContext context;
    absl::Time last_heard;
  };

  void Follow();     // thread: the coordinator
  void Supervise();  // thread: deadlines
  // One WatchGroups stream, until it ends. True when there was a message.
  bool RunWatch();
  void OnGroups(coordinator::v1::GroupStates groups);
  std::unique_ptr<LeaderConnection> MakeConnection(const std::string& group) const;
  // False when stopping.
  bool Sleep(absl::Duration duration);

  const EngineClientOptions options_;
  const std::shared_ptr<Journal> journal_;
  identity::CoordinatorRoute route_;
  EngineCredentials credentials_;  // of the thread that follows the coordinator
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Watch> watch_ ABSL_GUARDED_BY(mutex_);
  uint64_t num_ignored_groups_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::unique_ptr<LeaderConnection>> connections_ ABSL_GUARDED_BY(mutex_);
  // Of groups that are gone, by name, until their threads have ended.
  std::multimap<std::string, std::unique_ptr<LeaderConnection>> retired_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_
