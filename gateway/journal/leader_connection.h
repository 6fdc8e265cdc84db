// The connection to the leader of one group: one Generate stream at a time, to whoever leads.
//
// Tested by tests/gateway/journal/engine_client_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_LEADER_CONNECTION_H_
#define MOE_GATEWAY_JOURNAL_LEADER_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/journal/journal.h"
#include "grpcpp/grpcpp.h"

namespace moe::gateway {

struct LeaderConnectionOptions {
  std::string gateway_id;  // in Greeting
  // A new channel to an address, with its own connection: the backoff is ours.
  std::function<std::shared_ptr<grpc::Channel>(const std::string& address)> connect;
  absl::Duration welcome_deadline = absl::Seconds(5);
  // A leader this silent is given up and connected to anew. Above the step deadline (10 s), so that
  // a slow step does not look like a dead leader.
  absl::Duration leader_silence = absl::Seconds(15);
  absl::Duration min_backoff = absl::Milliseconds(20);
  absl::Duration max_backoff = absl::Seconds(1);
};

// Thread-safe. Has one thread that reads, and while a leader is connected one that writes.
class LeaderConnection {
 public:
  LeaderConnection(std::string group, LeaderConnectionOptions options,
                   std::shared_ptr<Journal> journal);
  // Retires and waits.
  ~LeaderConnection();
  LeaderConnection(const LeaderConnection&) = delete;
  LeaderConnection& operator=(const LeaderConnection&) = delete;

  // Where the leader is now; empty: nobody knows. While a group recovers there is no address; the
  // present leader may well go on.
  void SetLeader(const std::string& address);
  // Ends the stream and connects no more. Does not wait.
  void Retire();
  // After Retire: its thread has nothing left to do.
  bool done() const;
  // Gives up a leader that says nothing; call it a few times per second.
  void CheckSilence();

 private:
  // A call in progress, so that another thread can cancel it.
  struct Call {
    grpc::ClientContext context;
    std::string address;
    absl::Time opened;
  };

  void Follow();  // thread
  // One stream to a leader, until it ends. True when the leader was accepted.
  bool RunStream(const std::string& address);
  // The leader's address as soon as there is one; empty when retired.
  std::string WaitForLeader();
  // False when retired. Ends early when another leader than `tried` is known.
  bool SleepUntilOtherLeader(const std::string& tried, absl::Duration duration);

  const std::string group_;
  const LeaderConnectionOptions options_;
  const std::shared_ptr<Journal> journal_;
  mutable absl::Mutex mutex_;
  bool retired_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::string leader_address_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Call> call_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: it uses the rest
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_LEADER_CONNECTION_H_
