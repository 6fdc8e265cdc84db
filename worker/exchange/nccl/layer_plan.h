// What each rank sends and receives in one layer: which bytes of which buffer, to and from whom.
// Pure; nccl_exchange.cc puts the buffers' addresses in.
//
// What one rank plans to send is what another plans to receive: both follow from the step's rows
// and, for exact numbers, from counts that both ends take from the same routes.
//
// Tested by tests/worker/exchange/nccl/layer_plan_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_LAYER_PLAN_H_
#define MOE_WORKER_EXCHANGE_NCCL_LAYER_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/nccl/nccl_session.h"

namespace moe::exchange {

enum class ExchangeBuffer {
  kRows,          // own rows
  kExpertIds,     // own routes
  kAllExpertIds,  // routes of all sources, `stride` rows each
  kInput,         // rows for this rank's experts
  kPacked,        // own rows, by the rank that needs them
  kOutputs,       // of this rank's experts
  kReturned,      // outputs that came back
};

// A transfer with places instead of addresses. Offsets are bytes.
struct PlannedTransfer {
  Transfer::Kind kind = Transfer::Kind::kSend;
  int peer = 0;
  ExchangeBuffer from = ExchangeBuffer::kRows;
  size_t from_offset = 0;
  ExchangeBuffer to = ExchangeBuffer::kRows;
  size_t to_offset = 0;
  size_t num_bytes = 0;

  bool operator==(const PlannedTransfer&) const = default;
};
using LayerPlan = std::vector<PlannedTransfer>;

// Adds what brings the first count[s] rows of each source s to all ranks, `stride` rows apart. An
// all-gather where all ranks are sources, and then of `stride` rows from each; else a broadcast
// from each source that has rows. Nothing in a group of one rank.
//   count [num sources]
void PlanGather(const GroupShape& shape, int rank, absl::Span<const int> count, int stride,
                size_t row_bytes, ExchangeBuffer own, ExchangeBuffer all, LayerPlan* plan);

// Exact numbers: units send_bounds[d] .. send_bounds[d + 1] of `from` go to rank d, and units
// receive_bounds[s] .. receive_bounds[s + 1] of `to` come from rank s. What a rank has for itself
// is no transfer. Ranks beyond the bounds have nothing.
LayerPlan PlanExact(int rank, absl::Span<const int32_t> send_bounds,
                    absl::Span<const int32_t> receive_bounds, size_t unit_bytes,
                    ExchangeBuffer from, ExchangeBuffer to);

// Slots: the outputs of the first count[s] rows of each source s go back to it, all slots of them.
// In kOutputs sources are `stride` rows apart; in kReturned holders are, in slots of one row.
//   count [num sources], slots [num_ranks]
LayerPlan PlanSlotsBack(const GroupShape& shape, int rank, absl::Span<const int> count, int stride,
                        absl::Span<const int32_t> slots);

// Replicated: all slots of `num_rows` rows of every rank to all.
LayerPlan PlanReplicatedSlots(const GroupShape& shape, int num_rows,
                              absl::Span<const int32_t> slots);

// Replicated: rank r has written the outputs bounds[r] .. bounds[r + 1] of kReturned, and all get
// them, in place.
LayerPlan PlanReplicatedExact(const GroupShape& shape, absl::Span<const int32_t> bounds);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_LAYER_PLAN_H_
