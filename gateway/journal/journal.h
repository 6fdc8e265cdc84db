// The journal of requests in flight: what was asked, every token received, and what to do when the
// leader changes. Knows nothing of gRPC or threads that read and write; engine_client.h drives it.
//
// Rules:
//   - A sequence is submitted once per connection to a leader, with the tokens received so far.
//   Each
//     submission has a number of its own, so events of an earlier one can't be taken for it.
//   - An event counts only if its epoch is not below the highest that its connection has spoken of,
//     and its position is exactly the next one. A gap makes the journal submit the sequence again.
//   - A sequence belongs to the model and numerics id of its start and never goes on elsewhere.
//   - Without a leader, or while a leader's queue refuses it, a sequence waits until the failover
//     deadline, then it ends Unavailable.
//
// Tested by tests/gateway/journal/journal_test.cc.
#ifndef MOE_GATEWAY_JOURNAL_JOURNAL_H_
#define MOE_GATEWAY_JOURNAL_JOURNAL_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/journal/generation.h"
#include "proto/coordinator.pb.h"
#include "proto/engine.pb.h"

namespace moe::gateway {

struct JournalOptions {
  absl::Duration failover_deadline = absl::Seconds(120);      // without progress in a failover
  absl::Duration queue_full_retry = absl::Milliseconds(250);  // resubmissions only
  absl::Duration silence = absl::Seconds(3);  // of the leader, until it counts as not serving
  std::function<absl::Time()> now = absl::Now;
};

// Thread-safe. Held by shared_ptr, because generations may outlive their client.
class Journal : public std::enable_shared_from_this<Journal> {
 public:
  explicit Journal(JournalOptions options) : options_(std::move(options)) {}

  // See Generator.
  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request);
  EngineView view() const;

  // A leader said Welcome. On success every sequence in flight is queued to be sent to it, oldest
  // first. FailedPrecondition: another model than before, or an old epoch; the connection is of no
  // use. One connection at a time: OnDisconnect comes before the next OnWelcome.
  absl::Status OnWelcome(const engine::v1::Welcome& welcome);
  void OnMessage(const engine::v1::EngineMessage& message);
  void OnDisconnect();
  void OnGroup(const coordinator::v1::GroupState& group);
  // Enforces deadlines; call it a few times per second.
  void Tick();
  // Ends everything Unavailable and refuses new requests.
  void Stop();

  // Waits for messages to send on the present connection; empty when it is over.
  std::vector<engine::v1::GatewayMessage> TakeOutgoing();

  bool connected() const;
  // When the leader last said something; InfinitePast before it did.
  absl::Time last_heard() const;

 private:
  struct Sequence {
    uint64_t order = 0;   // of arrival
    uint64_t number = 0;  // of its submission on this connection; 0: not submitted
    GenerationRequest request;
    std::vector<int32_t> generated;
    std::string model_digest;
    std::string numerics_id;
    int num_resyncs = 0;  // since the last accepted token
    // Finite once a submission was lost or put off, until the next token.
    absl::Time stalled_since = absl::InfiniteFuture();
    absl::Time retry_at = absl::InfiniteFuture();
    std::deque<engine::v1::TokenEvent> ready;  // not yet taken by Next
    bool finished = false;
    absl::Status status;
    absl::CondVar changed;
  };
  class JournaledGeneration;

  void Submit(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Cancel(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the sequence out of the journal. Its owner sees `status` after the events that are ready.
  void End(const std::shared_ptr<Sequence>& sequence, absl::Status status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAll(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Signal(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnEvent(const engine::v1::TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRejected(const engine::v1::Rejected& rejected) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string WhyNotServing() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(Sequence& sequence);

  const JournalOptions options_;
  mutable absl::Mutex mutex_;
  absl::CondVar outgoing_changed_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool ever_connected_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_order_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // highest heard from a leader
  absl::Time connected_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  absl::Time last_heard_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  engine::v1::Welcome welcome_ ABSL_GUARDED_BY(mutex_);
  engine::v1::EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  coordinator::v1::GroupState group_ ABSL_GUARDED_BY(mutex_);
  uint64_t num_failovers_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t num_dropped_events_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string refused_reason_ ABSL_GUARDED_BY(mutex_);  // of the last leader, if it was refused
  std::map<uint64_t, std::shared_ptr<Sequence>> live_ ABSL_GUARDED_BY(mutex_);       // by order
  std::map<uint64_t, std::shared_ptr<Sequence>> submitted_ ABSL_GUARDED_BY(mutex_);  // by number
  std::vector<engine::v1::GatewayMessage> outgoing_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_JOURNAL_H_
