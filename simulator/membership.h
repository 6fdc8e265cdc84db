// The workers of one group and its controller: the real epoch logic
// (controller/coordinator/group.h) leads modelled processes, which take their time to start, load,
// connect and to be noticed when they end.
//
// What takes time becomes an event in the queue; whoever takes the event out gives it back to
// Handle.
//
// Tested by tests/simulator/membership_test.cc.
#ifndef MOE_SIMULATOR_MEMBERSHIP_H_
#define MOE_SIMULATOR_MEMBERSHIP_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "controller/coordinator/group.h"
#include "simulator/event_queue.h"

namespace moe::simulator {

// Of all simulated processes.
inline constexpr char kModelDigest[] = "simulated";
inline constexpr char kNumericsId[] = "simulated";

// What no cost model says. Each is assumed until it is measured in a cluster with such devices.
struct ProcessTimes {
  // From the controller's wish to the process's Hello: the pod, its container, its certificate.
  absl::Duration start = absl::Seconds(5);
  // Of a rank's weights, from where the model lies to the device.
  double load_bytes_per_second = 2e9;
  // A message between the controller and a worker, or between the gateway and a leader.
  absl::Duration message = absl::Milliseconds(1);
  // From Join to Joined: communicators and the canary exchange.
  absl::Duration connect = absl::Seconds(1);
  // A connection whose other end is gone.
  absl::Duration notice = absl::Milliseconds(50);
  // The end of a process, from the kubelet to the controller.
  absl::Duration exit_report = absl::Seconds(1);
  // Of a step that waits for a rank which says nothing; as in a MoEDeployment.
  absl::Duration step_deadline = absl::Seconds(10);
};

struct MembershipOptions {
  int group_idx = 0;
  coordinator::GroupOptions group = {};
  ProcessTimes times = {};
  // Of the weights of an attention rank, and of a rank that only holds experts.
  double attention_rank_bytes = 0;
  double expert_rank_bytes = 0;
};

// Not thread-safe.
class Membership {
 public:
  // `queue` is not owned and gets this group's events from now on.
  Membership(MembershipOptions options, EventQueue* queue);

  // What the rest of the group has to know of an event.
  enum class Effect {
    kNone,
    kLeaderLoaded,  // rank 0 is a new process, with nothing but its weights
    kActive,        // the leader was told that an epoch is active; see changed_slots
    kLeaderEnded,   // its process; nothing more comes from it
  };
  // Takes an event of kinds kTick to kExited with this group's index.
  Effect Handle(const Event& event);

  // The process of `slot` ends; or, `silently`, says nothing more, as when its node is gone or it
  // hangs. Returns whether there was one. A step that runs never ends then.
  bool Fail(int slot, bool silently);
  // A step began that waits for a silent rank: the others find that out at the step deadline.
  void AwaitSilentRank();
  // Whether all ranks of the active epoch compute.
  bool complete() const { return active_epoch_ != 0 && num_lost_ == 0; }
  // The epoch that the leader was told to be active; 0: none.
  uint64_t active_epoch() const { return active_epoch_; }
  bool leader_speaks() const { return Speaks(0) && processes_[0].loaded; }

  // Slots whose process is another one than in the epoch before the last kActive.
  const std::vector<int>& changed_slots() const { return changed_slots_; }
  const coordinator::Group& group() const { return group_; }
  // Why the controller gave up; empty while it has not.
  const std::string& failure() const { return failure_; }

 private:
  struct Process {
    uint64_t number = 0;  // counts up with each process of this slot; 0: there was none
    bool runs = false;
    bool silent = false;
    bool loaded = false;
    uint64_t session = 0;
  };

  bool Speaks(int slot) const {
    const Process& process = processes_[static_cast<size_t>(slot)];
    return process.runs && !process.silent;
  }
  // Whether the event is of the process that the slot has now, and this one speaks.
  bool IsOfSpeakingProcess(const Event& event) const;
  std::string WorkerId(int slot) const;
  // Steps the group and carries out what it says.
  void Step(coordinator::Event event);
  void Do(const coordinator::SendMessage& action);
  void Do(const coordinator::CloseSession& action);
  void Do(const coordinator::StartWorker& action);
  void Do(const coordinator::KillWorker& action);
  void Do(const coordinator::ClaimEpoch& action);
  void Do(const coordinator::GiveUp& action);
  void Do(const coordinator::LogLine& action);
  void Say(int slot, coordinator::v1::WorkerMessage message);
  void Later(absl::Duration delay, EventKind kind, int slot, uint64_t number);
  absl::Duration LoadTime(int slot) const;
  Effect OnHello(const Event& event);
  void ReportLostRank(const Event& event);
  Effect OnActivated(uint64_t epoch);

  const MembershipOptions options_;
  EventQueue* const queue_;
  coordinator::Group group_;
  std::vector<Process> processes_;
  std::deque<coordinator::Event> pending_;  // follow from actions
  std::vector<int> slot_of_session_;        // [session]; sessions begin at 1
  uint64_t active_epoch_ = 0;
  int num_lost_ = 0;  // ranks of the active epoch that compute no more
  int lost_slot_ = -1;
  bool deadline_runs_ = false;
  std::vector<uint64_t> last_members_;  // process of each slot in the last active epoch
  std::vector<int> changed_slots_;
  std::string failure_;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_MEMBERSHIP_H_
