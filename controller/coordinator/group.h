// The membership of one group of workers, as a pure state machine.
//
// What happens goes in as events, what to do comes out as actions; no thread, clock or socket is
// here. The executor (group_loop.h) carries the actions out in order and feeds back what comes of
// them.
//
//   no epoch --every slot has a loaded member--> claiming --EpochClaimed--> preparing
//     ^                                                                        |  all Prepared
//     |  a member died, an answer was late, EpochFailed: Abort(e)              v
//     +<--------------------------------- active <--all Joined-------------- joining
//
// Rules that hold whatever the order of events:
//   * An epoch number is claimed once, and a member of an epoch is one (worker_id, nonce) per slot.
//   * Losing a session ends nothing while the process lives: the worker says Hello again and gets
//     what it missed.
//   * A process that ended (or was silent, or was named as the culprit twice) is replaced: first at
//     once, then with backoff; too many failures of one slot end the group.
//   * Time in which the controller itself did not run (it was stopped, the machine slept) counts
//     at most as max_time_step: nobody is killed for a silence that was ours.
//   * A controller that takes over finds the running epoch in the Hello messages and keeps it.
//
// Tested by tests/controller/coordinator/group_*_test.cc.
#ifndef MOE_CONTROLLER_COORDINATOR_GROUP_H_
#define MOE_CONTROLLER_COORDINATOR_GROUP_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/coordinator/expert_load.h"
#include "controller/coordinator/placement.h"
#include "proto/coordinator.pb.h"

namespace moe::coordinator {

struct GroupOptions {
  std::string name;     // "namespace/deployment/index", or empty
  Placement placement;  // CheckPlacement must hold
  int num_layers = 0;
  int num_attention_ranks = 1;  // in [1, placement.num_slots]
  bool replicated_attention = false;
  v1::EngineLimits limits;
  v1::ExchangeKind exchange = v1::EXCHANGE_SHARED_MEMORY;
  uint64_t term = 1;        // of this controller; above every earlier one
  uint64_t last_epoch = 0;  // the highest ever claimed

  // Until every member has answered Prepare, and again Join.
  absl::Duration stage_deadline = absl::Seconds(10);
  // A session without any message for this long: the process hangs and is killed.
  absl::Duration heartbeat_deadline = absl::Seconds(10);
  // A suspect that was heard from within this time is thought to be alive.
  absl::Duration fresh_heartbeat = absl::Seconds(3);
  // From the start of a process to its Hello. For a pod also the time to pull its image.
  absl::Duration hello_deadline = absl::Seconds(60);
  // From a lost session to the next Hello while no epoch is active.
  absl::Duration reconnect_deadline = absl::Seconds(60);
  // A worker that is not known is told to try again, not to end: the runtime may report it later
  // than it connects.
  bool retry_unknown_workers = false;
  // Between two reports of progress while weights load.
  absl::Duration load_deadline = absl::Minutes(10);
  // A live suspect is killed when a second epoch blames it within this time.
  absl::Duration suspect_window = absl::Minutes(1);

  // The first new process of a slot starts at once, the next after first_restart_delay, doubling.
  absl::Duration first_restart_delay = absl::Milliseconds(500);
  absl::Duration max_restart_delay = absl::Seconds(10);
  // This many failures of one slot within the window end the group.
  int max_slot_failures = 5;
  absl::Duration failure_window = absl::Minutes(10);

  // After an epoch failed though no process ended, the next one starts at once; after another
  // failure after first_epoch_delay, doubling. An epoch that was active for stable_epoch ends the
  // series.
  absl::Duration first_epoch_delay = absl::Milliseconds(200);
  absl::Duration max_epoch_delay = absl::Seconds(5);
  absl::Duration stable_epoch = absl::Seconds(10);
  // So many epochs in a row that never became active, with no process ending, end the group.
  int max_failed_epochs = 10;

  absl::Duration max_time_step = absl::Seconds(1);
};

// Makes the ranks of a group on GPUs exchange over NCCL, if there are several, and gives them the
// time that communicators take to come up.
void ExchangeBetweenGpus(GroupOptions* options);

// ---- Events ----

// The runtime started (or, after a takeover, found) a process for a slot. It ends what was known of
// an earlier process of that slot.
struct WorkerStarted {
  int slot = 0;
  std::string worker_id;  // never used for another process of this runtime
};
struct WorkerStartFailed {
  int slot = 0;
  std::string reason;
};
struct WorkerExited {
  int slot = 0;
  std::string worker_id;
  std::string description;  // "was killed by signal 9 (Killed)"
  std::string last_lines;   // of its log
};
// `session` numbers one connection of a worker, never reused.
struct SessionMessage {
  uint64_t session = 0;
  v1::WorkerMessage message;
};
struct SessionClosed {
  uint64_t session = 0;
};
struct EpochClaimed {
  uint64_t epoch = 0;
  absl::Status status;
};
struct Tick {};  // several times each second
struct DrainRequested {};
struct StopRequested {};
using Event = std::variant<WorkerStarted, WorkerStartFailed, WorkerExited, SessionMessage,
                           SessionClosed, EpochClaimed, Tick, DrainRequested, StopRequested>;

// ---- Actions ----

struct SendMessage {
  uint64_t session = 0;
  v1::ControllerMessage message;
};
struct CloseSession {  // after what was sent before
  uint64_t session = 0;
  std::string retry_reason;  // why the worker should try again; empty: it is over in good order
};
struct StartWorker {  // answered by WorkerStarted or WorkerStartFailed, perhaps much later
  int slot = 0;
};
struct KillWorker {  // answered by WorkerExited
  int slot = 0;
  std::string worker_id;
  std::string reason;
};
struct ClaimEpoch {  // make (term, epoch) durable; answered by EpochClaimed
  uint64_t epoch = 0;
};
struct GiveUp {  // the group is FAILED and stays so
  std::string reason;
};
struct LogLine {  // for people
  bool warning = false;
  std::string text;
};
using Action =
    std::variant<SendMessage, CloseSession, StartWorker, KillWorker, ClaimEpoch, GiveUp, LogLine>;

// A value: copyable, no references kept. Not thread-safe.
class Group {
 public:
  explicit Group(GroupOptions options);

  // `now` never goes back. The first Tick starts the workers of all slots that have none.
  std::vector<Action> Step(const Event& event, absl::Time now);

  // Counts up with every change that gateways and people should see at once (not with counters).
  uint64_t version() const { return version_; }
  v1::GroupState State() const;
  v1::GroupState::Phase phase() const;
  uint64_t epoch() const { return stage_ == Stage::kActive ? epoch_ : 0; }  // 0: none is active
  bool draining() const { return draining_; }
  const v1::GroupSpec& spec() const { return spec_; }

 private:
  enum class Stage { kNone, kClaiming, kPreparing, kJoining, kActive };

  // A process that said Hello and was accepted.
  struct Member {
    v1::Hello hello;
    uint64_t session = 0;  // 0: lost
    absl::Time heard_at;   // last message, or when the session was lost
    absl::Time progress_at;
    uint64_t running_epoch = 0;  // as told by Hello; of an earlier controller
    uint64_t bytes_done = 0;
    uint64_t bytes_total = 0;
    std::optional<v1::Loaded> loaded;
    double busy_seconds = 0;
    uint32_t num_running = 0;
    uint32_t num_waiting = 0;
    bool prepared = false;  // in the current epoch
    bool joined = false;
  };

  struct Slot {
    std::vector<int> experts;
    // Process. Empty worker_id: none runs.
    std::string worker_id;
    absl::Time started_at;
    bool starting = false;  // StartWorker was given, no answer yet
    bool dying = false;     // KillWorker was given
    std::string kill_reason;
    std::string refusal;                         // why its Hello was refused
    absl::Time start_at = absl::InfinitePast();  // not before
    std::optional<Member> member;
    // History.
    std::deque<absl::Time> failures;  // within failure_window
    uint32_t num_failures = 0;        // ever
    absl::Time blamed_at = absl::InfinitePast();
  };

  void On(const WorkerStarted& event);
  void On(const WorkerStartFailed& event);
  void On(const WorkerExited& event);
  void On(const SessionMessage& event);
  void On(const SessionClosed& event);
  void On(const EpochClaimed& event);
  void On(const Tick& event);
  void On(const DrainRequested& event);
  void On(const StopRequested& event);

  void OnHello(uint64_t session, const v1::Hello& hello);
  // Why this Hello can't be accepted; empty if it can. `slot_idx` is set for a known worker.
  std::string CheckHello(const v1::Hello& hello, int* slot_idx) const;
  void ResendEpoch(int slot_idx, uint64_t hello_epoch);
  void OnLoaded(int slot_idx, const v1::Loaded& loaded);
  // Of the members that have loaded; empty while none has.
  std::string ModelDigest() const;
  void OnPrepared(int slot_idx, const v1::Prepared& prepared);
  void OnJoined(int slot_idx, const v1::Joined& joined);
  void OnEpochFailed(int slot_idx, const v1::EpochFailed& failed);
  void OnHeartbeat(int slot_idx, const v1::Heartbeat& heartbeat);

  void CheckSlot(int slot_idx);
  void CheckStageDeadline();
  void StartDueWorkers();
  void TryStartEpoch();
  void TryAdvance();
  void SlotFailed(int slot_idx, const std::string& description, const std::string& last_lines);
  void BlameSuspect(const v1::EpochFailed& failed, const std::string& reason);
  // Names `slot_idx` as the culprit of an epoch's failure; kills it if it is silent or blamed
  // again.
  void Blame(int slot_idx, const std::string& reason);
  void Kill(int slot_idx, const std::string& reason);
  void Dismiss(uint64_t session, const std::string& reason);
  void Refuse(uint64_t session, const std::string& reason);
  void DropMember(int slot_idx);
  // Ends the current epoch, if any, with Abort to all of its members that are left.
  // `process_ended`: the cause is a process that ended, so that the next epoch need not wait.
  void EndEpoch(const std::string& reason, bool process_ended);
  void Fail(const std::string& reason);

  void Send(int slot_idx, v1::ControllerMessage message);
  void SendAssign(int slot_idx);
  void SendPrepare(int slot_idx);
  void SendJoin(int slot_idx);
  void SendActivate(int slot_idx);
  void SendAbort(int slot_idx, uint64_t epoch, const std::string& reason);
  void Log(bool warning, std::string text);
  void Changed() { ++version_; }

  int num_slots() const { return static_cast<int>(slots_.size()); }
  Slot& slot(int idx) { return slots_[static_cast<size_t>(idx)]; }
  const Slot& slot(int idx) const { return slots_[static_cast<size_t>(idx)]; }
  bool over() const { return failed_ || stopping_; }
  absl::Duration Backoff(absl::Duration first, absl::Duration max, int num_failures) const;

  GroupOptions options_;
  v1::GroupSpec spec_;
  ExpertLoad load_;
  std::vector<Slot> slots_;
  std::map<uint64_t, int> slot_of_session_;  // accepted and open
  std::string numerics_id_;                  // of the members; empty while there is none

  Stage stage_ = Stage::kNone;
  uint64_t last_epoch_;       // the highest that was given to ClaimEpoch
  uint64_t adoptable_epoch_;  // an earlier controller's, until this one claims its first
  uint64_t epoch_ = 0;        // current if stage_ != kNone
  absl::Time stage_since_;
  std::string bootstrap_;      // while kJoining; a secret
  uint64_t blamed_epoch_ = 0;  // the last epoch for which somebody was blamed
  uint64_t ended_epoch_ = 0;   // the last epoch that ended
  bool was_active_ = false;
  int num_epoch_failures_ = 0;  // in a row, for the backoff
  int num_failed_epochs_ = 0;   // in a row, never active
  absl::Time next_epoch_at_ = absl::InfinitePast();
  bool draining_ = false;
  bool stopping_ = false;
  bool failed_ = false;
  std::string reason_;
  std::set<std::string> shown_warnings_;

  absl::Time now_;  // the group's own time
  absl::Time last_step_ = absl::InfinitePast();
  uint64_t version_ = 1;
  std::vector<Action> actions_;  // of the Step under way
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_GROUP_H_
