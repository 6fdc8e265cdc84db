// Follows a group and its leader over gRPC and drives the journal: one WatchGroup stream to the
// coordinator, one Generate stream to whoever leads.
//
// Tested by tests/gateway/journal/engine_client_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_
#define MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_

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
#include "grpcpp/grpcpp.h"

namespace moe::gateway {

struct EngineClientOptions {
  std::string coordinator;  // gRPC target, for example unix:/run/moe/coordinator.sock
  std::string gateway_id;   // in Greeting
  JournalOptions journal;
  absl::Duration welcome_deadline = absl::Seconds(5);
  // A leader this silent is given up and connected to anew. Above the step deadline (10 s), so that
  // a slow step does not look like a dead leader.
  absl::Duration leader_silence = absl::Seconds(15);
  absl::Duration min_backoff = absl::Milliseconds(20);
  absl::Duration max_backoff = absl::Seconds(1);
};

// Thread-safe. Starts its threads when made. Ends all generations when destroyed.
class EngineClient : public Generator {
 public:
  explicit EngineClient(EngineClientOptions options);
  ~EngineClient() override;
  EngineClient(const EngineClient&) = delete;
  EngineClient& operator=(const EngineClient&) = delete;

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request) override;
  EngineView view() const override;
  // Ends all generations Unavailable and starts no more.
  void Stop() { journal_->Stop(); }

 private:
  // A call in progress, so that another thread can cancel it.
  struct Call {
    grpc::ClientContext context;
    std::string address;
    absl::Time opened;
  };

  void WatchGroup();    // thread
  void FollowLeader();  // thread
  void Supervise();     // thread: deadlines
  // One connection to a leader, until it ends. True when the leader was accepted.
  bool RunConnection(const std::string& address);
  void OnGroup(const coordinator::v1::GroupState& group);
  // False when stopping.
  bool Sleep(absl::Duration duration);
  // The same, but ends when another leader than `tried` is known.
  bool SleepUntilOtherLeader(const std::string& tried, absl::Duration duration);
  std::string WaitForLeader();

  const EngineClientOptions options_;
  const std::shared_ptr<Journal> journal_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::string leader_address_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_watch_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::shared_ptr<Call> watch_call_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Call> leader_call_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_ENGINE_CLIENT_H_
