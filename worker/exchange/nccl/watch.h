// Whether an epoch whose rows travel over NCCL has to end, and who is at fault.
//
// NCCL alone does not tell: a rank that is gone leaves the others' kernels waiting, and one that
// hangs leaves no error anywhere. So three things are looked at together: the connections of the
// control channel, which end with a process; the communicator's own errors; and the step's
// deadline. NCCL can't say which rank a late step waits for. So at the deadline every rank tells
// rank 0 how far it came, and rank 0 names the one that says nothing, or that is behind the others.
//
// Pure. Tested by tests/worker/exchange/nccl/watch_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_WATCH_H_
#define MOE_WORKER_EXCHANGE_NCCL_WATCH_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/exchange/clock.h"
#include "worker/exchange/tcp.h"

namespace moe::exchange {

// What is seen at one time.
struct WatchView {
  Clock::time_point now = {};
  int rank = 0;                                // this one
  absl::Span<const PeerState> peers = {};      // [num_ranks]; this rank's own says nothing
  absl::Status communicator = {};              // its error
  Clock::time_point communicator_failed = {};  // since when it has it
  // What has to be done by the deadline: joining, or a step. Clock::time_point::max(): nothing.
  Clock::time_point deadline = Clock::time_point::max();
  bool is_joining = false;
  StepLayer at = {};                               // how far this rank came
  std::optional<Clock::time_point> asked_at = {};  // when it began to look for the one that is late
};

// How long the communicator's error waits for the control channel to show who is gone: a process's
// connections do not all end in the same moment.
inline constexpr std::chrono::milliseconds kErrorPatience(500);
// How long rank 0 collects what the others say after the deadline, and how long they wait for what
// it finds.
inline constexpr std::chrono::milliseconds kLatePatience(1000);
inline constexpr std::chrono::milliseconds kLateVerdictPatience(2000);

struct WatchVerdict {
  enum class Action {
    kGoOn,
    kAskWhoIsLate,  // tell rank 0, if this is another, how far this rank came; set asked_at
    kEnd,
  };
  Action action = Action::kGoOn;
  // kEnd: why. Unavailable: a rank is gone; DeadlineExceeded; or the communicator's error.
  absl::Status status = {};
  int suspect = -1;  // -1: nobody in particular
};

WatchVerdict Judge(const WatchView& view);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_WATCH_H_
