// Exchange and ControlChannel for CPU ranks on several machines: framed messages over TCP.
//
// Which connections there are: one for each pair of ranks of which at least one owns rows (rank 0,
// which leads, always does); when attention is replicated, one for each pair. The lower rank dials.
// An owner sends each row once to each rank that holds one of its experts, with the list of pairs;
// the answer is one bf16 row for each pair. Nothing is sent to ranks that have no part in a layer.
// When attention is replicated all have the rows, and each rank sends what its experts gave to all.
//
// A connection that breaks ends the epoch at once, with the rank at its other end as the suspect;
// so does a frame that can't be, before anything in it is used. Every wait has a deadline or ends
// with Abort. A rank that waits to write goes on reading and serving, so full buffers never add up
// to a deadlock; what it holds in memory follows from the group's shape.
//
// The bits that come back are those of the shared-memory exchange.
//
// Tested by tests/worker/exchange: epoch_exchange_test.cc and epoch_exchange_fault_test.cc with the
// shared-memory exchange, tcp_*_test.cc alone.
#ifndef MOE_WORKER_EXCHANGE_TCP_H_
#define MOE_WORKER_EXCHANGE_TCP_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/exchange/exchange.h"
#include "worker/exchange/rank_epoch.h"
#include "worker/exchange/tcp_listener.h"

namespace moe::exchange {

struct TcpOptions {
  // The door of this process. Not owned; must outlive the group.
  TcpListener* listener = nullptr;
  // Where the listener of each rank is: [num_ranks], HOST:PORT.
  std::vector<std::string> addresses = {};
  absl::Duration step_deadline = absl::Seconds(10);
  absl::Duration join_deadline = absl::Seconds(10);
};

// What a rank tells the others when it ends the epoch: how far it came, and who it thinks is at
// fault. Or that it has waited for too long, and goes on waiting for who is at fault.
struct LastWords {
  StepLayer at = {};     // layer -1: before the first
  int suspect = -1;      // -1: nobody in particular
  bool is_late = false;  // it has not ended the epoch yet

  bool operator==(const LastWords&) const = default;
};

// Another rank as its connection shows it.
struct PeerState {
  bool is_gone = false;                        // the connection has ended
  std::optional<uint64_t> answered_step = {};  // its result of this step waits to be received
  std::optional<LastWords> words = {};         // it has said that it ends the epoch, or is late
};

class TcpGroup : public EpochExchange {
 public:
  // `experts` may be null where this group is the control channel of another exchange: then a rank
  // that sends rows ends the epoch.
  //
  // Rank 0: draws the secret of the epoch, which `bootstrap()` holds. InvalidArgument for a shape
  // or options that can't be.
  static absl::StatusOr<std::unique_ptr<TcpGroup>> Create(const GroupShape& shape, uint64_t epoch,
                                                          LocalExperts* experts,
                                                          const TcpOptions& options);

  // Other ranks. InvalidArgument: not a bootstrap; FailedPrecondition: of another epoch or shape.
  static absl::StatusOr<std::unique_ptr<TcpGroup>> Open(std::string_view bootstrap,
                                                        const GroupShape& shape, uint64_t epoch,
                                                        int rank, LocalExperts* experts,
                                                        const TcpOptions& options);

  // ---- For who watches the epoch while the engine thread waits for something else, such as a GPU
  // (nccl/nccl_epoch.h). Once Connect has returned OK. A rank that this one has no connection with
  // is never gone; every rank has one with rank 0.

  // Looks at a connection and takes nothing from it. Any thread.
  virtual PeerState Peek(int rank) const = 0;
  // Tells `rank`, if its connection takes it at once. Not while another thread is in a call of this
  // group other than Peek or Abort.
  virtual void Say(int rank, const LastWords& words) = 0;
  // Ends all connections, so that the others see it at once. As Say.
  virtual void HangUp() = 0;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_H_
