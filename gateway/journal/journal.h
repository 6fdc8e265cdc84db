// The journal of requests in flight: what was asked, every token received, in which group it runs,
// and what to do when a leader changes or a group is lost. Knows nothing of gRPC or threads that
// read and write; engine_client.h drives it.
//
// Rules:
//   - A sequence is in one group at a time, the one with the fewest outstanding tokens (routing.h).
//     It is submitted once per connection to a leader, with the tokens received so far. Each
//     submission has a number of its own, so events of an earlier one can't be taken for it.
//   - An event counts only if its epoch is not below the highest that its connection has spoken of,
//     and its position is exactly the next one. A gap makes the journal submit the sequence again.
//   - Only groups of this gateway's model are used: its prompts and answers are tokens of that
//     model's tokenizer. During a roll-out to another model, other gateways have the others.
//   - From its first token on a sequence belongs to the model and numerics id that made it, and
//     never goes on elsewhere. Within them any group continues it with the same bits.
//   - A sequence waits for its own group as long as that may come back. It goes on in another one
//     when its group has failed or is gone, or has not computed for the grace period.
//   - While no group can take it, a sequence waits until the failover deadline, then it ends
//     Unavailable.
//
// Tested by tests/gateway/journal/journal_{test,groups_test,models_test,fault_test}.cc.
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
  absl::Duration group_grace = absl::Seconds(5);              // until another group takes over
  absl::Duration queue_full_retry = absl::Milliseconds(250);  // resubmissions only
  absl::Duration silence = absl::Seconds(3);  // of the leader, until it counts as not serving
  // Local mode: one group for the whole life of this gateway. It can't become another model, and a
  // sequence that it can't continue ends at once, since no other group will come.
  bool single_group = true;
  // Of the model files that this gateway has read; groups that loaded others are not used. Empty:
  // local mode, where the engine was given the same folder.
  std::string model_digest;
  // Gets a line for people when there is something to say. Called under a lock: it must not call
  // the journal. May be empty.
  std::function<void(const std::string&)> log;
  std::function<absl::Time()> now = absl::Now;
};

// Thread-safe. Held by shared_ptr, because generations may outlive their client.
class Journal : public std::enable_shared_from_this<Journal> {
 public:
  explicit Journal(JournalOptions options) : options_(std::move(options)) {}

  // See Generator.
  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request);
  engine::v1::Welcome welcome() const;
  EngineView view() const;

  // The complete list. A group that is not in it is gone: its connection is over, its sequences
  // look for another one. So do those of a group that has become another model.
  void OnGroups(const coordinator::v1::GroupStates& groups);

  // A leader of a group said Welcome. On success every sequence in flight in this group is queued
  // to be sent to it, oldest first. FailedPrecondition: another model, an old epoch, or
  // no such group; the connection is of no use. One connection of a group at a time: OnDisconnect
  // comes before the next OnWelcome.
  absl::Status OnWelcome(const std::string& group, const engine::v1::Welcome& welcome);
  // What comes after the end of a connection, or of its group, is ignored.
  void OnMessage(const std::string& group, const engine::v1::EngineMessage& message);
  void OnDisconnect(const std::string& group);
  // Enforces deadlines and moves sequences; call it a few times per second.
  void Tick();
  // Ends everything Unavailable and refuses new requests.
  void Stop();

  // Waits for messages to send on the group's present connection, at most `timeout`. False when the
  // connection is over.
  bool TakeOutgoing(const std::string& group, absl::Duration timeout,
                    std::vector<engine::v1::GatewayMessage>* messages);

  bool connected(const std::string& group) const;
  // When the group's leader last said something; InfinitePast before it did.
  absl::Time last_heard(const std::string& group) const;

 private:
  struct Sequence;
  struct Group {
    coordinator::v1::GroupState state;
    bool gone = false;  // no longer listed
    bool other_model = false;
    bool connected = false;
    bool ever_connected = false;
    uint64_t epoch = 0;  // highest heard from a leader
    absl::Time connected_at = absl::InfinitePast();
    absl::Time last_heard = absl::InfinitePast();
    absl::Time lost_since = absl::InfinitePast();  // InfiniteFuture while it computes
    absl::Time full_until = absl::InfinitePast();  // its queue refused a sequence
    engine::v1::Welcome welcome;
    engine::v1::EngineStats stats;
    std::string refused_reason;  // of the last leader, if it was refused
    int64_t outstanding_tokens = 0;
    std::map<uint64_t, std::shared_ptr<Sequence>> submitted;  // by number
    std::vector<engine::v1::GatewayMessage> outgoing;
    absl::CondVar outgoing_changed;
  };
  struct Sequence {
    uint64_t order = 0;            // of arrival
    std::shared_ptr<Group> group;  // where it is, or was when that was lost; null: nowhere
    uint64_t number = 0;           // of its submission on that group's connection; 0: not submitted
    GenerationRequest request;
    std::vector<int32_t> generated;
    std::string model_digest;  // of the first token
    std::string numerics_id;
    bool prefilled = false;  // a token came since it was submitted
    int64_t outstanding_tokens = 0;
    int num_resyncs = 0;   // since the last accepted token
    int num_refusals = 0;  // by full queues, since the last accepted token
    // Finite once a submission was lost or put off, until the next token.
    absl::Time stalled_since = absl::InfiniteFuture();
    absl::Time retry_at = absl::InfinitePast();
    std::deque<engine::v1::TokenEvent> ready;  // not yet taken by Next
    bool finished = false;
    absl::Status status;
    absl::CondVar changed;

    bool begun() const { return !generated.empty(); }
  };
  class JournaledGeneration;

  // ---- journal.cc: sequences ----
  void Submit(const std::shared_ptr<Sequence>& sequence, const std::shared_ptr<Group>& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the sequence back from the leader that has it, if any has.
  void Cancel(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts what it still needs, at most, to its group.
  static void Recount(Sequence& sequence);
  // Takes the sequence out of the journal. Its owner sees `status` after the events that are ready.
  void End(const std::shared_ptr<Sequence>& sequence, absl::Status status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAll(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Signal(Sequence& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnEvent(Group& group, const engine::v1::TokenEvent& event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnRejected(Group& group, const engine::v1::Rejected& rejected)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Drop(Sequence& sequence);

  // ---- journal_groups.cc: groups, and where sequences go ----
  // What the coordinator or its leader says of the group's model.
  void SetModel(const std::string& name, const std::string& digest, Group& group)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Group> Find(const std::string& group) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Computes(const Group& group) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // It won't come back, or has not computed for the grace period.
  bool IsLost(const Group& group) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Of this gateway's model.
  bool AllFailed() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Every group of its model drains, and there are groups of another: this gateway goes, too.
  bool OnlyDrainingOfItsModel() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  int NumUsable() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Group> Choose(const Sequence& sequence, bool placed) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Submits what waits and may go on, and moves what should not wait any longer.
  void Place(const std::shared_ptr<Sequence>& sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PlaceAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The end of a group's connection: what it had waits.
  void Disconnect(Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UpdateLost(Group& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string WhyNotServing(const Group& group) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  EngineView MakeView() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const JournalOptions options_;
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool ever_connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool ever_listed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_order_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t num_failovers_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t num_moved_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t num_dropped_events_ ABSL_GUARDED_BY(mutex_) = 0;
  engine::v1::Welcome last_welcome_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Group>> groups_ ABSL_GUARDED_BY(mutex_);  // by name
  std::map<uint64_t, std::shared_ptr<Sequence>> live_ ABSL_GUARDED_BY(mutex_);    // by order
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_JOURNAL_JOURNAL_H_
