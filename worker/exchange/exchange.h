// How tokens reach the experts that live in other ranks, and how a step is told to all ranks.
//
// An owner (attention rank) holds `num_rows` rows of a layer and top_k experts for each. Dispatch
// sends each row to the ranks that hold its experts; Combine returns one unreduced bf16 row for
// each (row, chosen expert), so that the owner can weight and add them in one fixed order whatever
// the width. All ranks of one epoch hold one Exchange and one ControlChannel each; both end with
// the epoch and are never reused.
#ifndef MOE_WORKER_EXCHANGE_EXCHANGE_H_
#define MOE_WORKER_EXCHANGE_EXCHANGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "kernels/bf16.h"

namespace moe::exchange {

// One (row, expert) pair for the experts of a rank: input row and output row. As an owner has it,
// out_row is x_row * top_k + j; where rows were sent elsewhere, they may be numbered differently.
struct RoutedRow {
  int32_t expert;  // global id
  int32_t x_row;
  int32_t out_row;
};

// The experts that this rank holds. Implemented by the model; called by the exchange on the thread
// that is inside Dispatch, Combine or ReceivePlan, never by two threads at once.
class LocalExperts {
 public:
  virtual ~LocalExperts() = default;
  // rows: sorted by expert, then by out_row; every expert is one of this rank.
  //   x    [any, hidden] bf16
  //   out  [any, hidden] bf16, written at out_row
  virtual void Run(int layer, absl::Span<const RoutedRow> rows, const kernels::BFloat16* x,
                   kernels::BFloat16* out) = 0;
};

// What all ranks of an epoch agree on.
struct GroupShape {
  int num_ranks = 1;
  int num_attention_ranks = 1;  // ranks 0 .. A-1 own rows
  bool replicated = false;      // every rank holds all rows; A is ignored
  int num_layers = 0;
  int num_experts = 0;
  int hidden = 0;
  int top_k = 0;
  int max_rows = 0;                 // of one owner in one step
  std::vector<int> rank_of_expert;  // [num_experts]
};

// The largest step plan, and the largest result of one rank.
inline constexpr size_t kMaxPlanBytes = size_t{4} << 20;
inline constexpr size_t kMaxResultBytes = size_t{64} << 20;

// Counters since the epoch began; read by any thread.
struct ExchangeStats {
  double dispatch_seconds = 0;      // owner: sending rows
  double combine_wait_seconds = 0;  // owner: waiting for other ranks, without serving them
  double serve_seconds = 0;         // running experts for other owners
  uint64_t dispatch_bytes = 0;      // rows to other ranks
  uint64_t combine_bytes = 0;       // rows from other ranks
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  // Where the owner writes the rows of the next Dispatch. [max_rows, hidden] bf16, owned by the
  // exchange; free to write after Combine returned.
  virtual kernels::BFloat16* rows() = 0;

  // expert_ids [num_rows, top_k]. The layers of a step are dispatched in ascending order, each
  // followed by its Combine. Owner thread only; num_rows in [1, max_rows].
  virtual absl::Status Dispatch(uint64_t step, int layer, int num_rows,
                                const int32_t* expert_ids) = 0;

  // Waits for all outputs of the last Dispatch, running this rank's experts (for its own rows and
  // for other owners) meanwhile. [num_rows, top_k, hidden] bf16, valid until the next Dispatch.
  // Aborted after Abort; DeadlineExceeded names the rank that did not answer (see suspect()).
  virtual absl::StatusOr<const kernels::BFloat16*> Combine() = 0;

  // The rank that a DeadlineExceeded was about; -1 for none.
  virtual int suspect() const = 0;
  virtual ExchangeStats stats() const = 0;

  // Ends every wait of this rank with Aborted, now and later. Any thread. Idempotent.
  virtual void Abort(std::string_view reason) = 0;
};

class ControlChannel {
 public:
  virtual ~ControlChannel() = default;

  // Leader (rank 0): makes `plan` the current step and wakes `ranks` (those with rows; all others
  // see the step's number when work reaches them). Steps ascend by one.
  virtual absl::Status SendPlan(uint64_t step, std::string_view plan,
                                absl::Span<const int> ranks) = 0;

  // Whether one more plan may be sent before the results of the one before it were received. The
  // others get it with the ReceivePlan that follows their result.
  virtual bool TakesPlanAhead() const { return false; }

  struct ReceivedPlan {
    uint64_t step = 0;
    std::string plan;
  };
  // Other ranks: waits, without a deadline, for a plan that names this rank, and runs this rank's
  // experts for owners meanwhile. Aborted after Abort; Internal for a step that can't be (the rank
  // then fails the epoch).
  virtual absl::StatusOr<ReceivedPlan> ReceivePlan() = 0;

  // Other ranks: the outcome of the step, to the leader.
  virtual absl::Status SendResult(uint64_t step, std::string_view result) = 0;

  // Leader: the results of `ranks` (none of them 0) for the oldest step whose results were not
  // received yet, in that order; serves experts meanwhile. DeadlineExceeded as in Combine.
  virtual absl::StatusOr<std::vector<std::string>> ReceiveResults(uint64_t step,
                                                                  absl::Span<const int> ranks) = 0;
};

// Both interfaces of one rank, for one epoch. Threads: Abort from any; all else from the rank's
// engine thread.
class EpochExchange : public Exchange, public ControlChannel {
 public:
  // What the other ranks need to join: made by rank 0, a secret.
  virtual std::string bootstrap() const = 0;

  // All ranks, once, before any step: waits until every rank is here and a canary row has gone from
  // every owner to every rank and back. DeadlineExceeded names the missing rank.
  virtual absl::Status Connect() = 0;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_EXCHANGE_H_
