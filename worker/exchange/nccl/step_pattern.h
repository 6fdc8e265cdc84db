// How the rows of a step travel, and how much memory that takes. Pure: every rank decides the same
// from the plan alone.
//
// Words as in kernels/cuda/exchange_rows.h: sources are the ranks that own rows, holders those of
// experts; a slot is room for one output of a row at a holder, used or not.
//
// Tested by tests/worker/exchange/nccl/step_pattern_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_STEP_PATTERN_H_
#define MOE_WORKER_EXCHANGE_NCCL_STEP_PATTERN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/exchange/exchange.h"

namespace moe::exchange {

// All of them give one unreduced row for each (row, chosen expert), so all give the same bits. The
// routes of all rows go to all ranks, by an all-gather or, where few ranks own rows, by broadcasts
// of the owners; places follow from them (kernels/cuda/exchange_rows.h).
enum class Pattern {
  // Rows go to all ranks with their routes; each holder returns all slots of a source's rows. All
  // counts are known beforehand, so a graph can hold it.
  kSlots,
  // Rows go to the ranks that need them, and outputs back, in exact numbers. The host reads the
  // numbers back once in each layer.
  kAllToAll,
  // Attention is replicated, so all ranks have the rows: each runs its own experts, and an
  // all-gather of all slots brings the outputs to all.
  kReplicatedSlots,
  // The same with a broadcast of each rank's outputs in exact numbers, read back once in each
  // layer.
  kReplicatedExact,
};
absl::string_view PatternName(Pattern pattern);

// Where patterns cross over. Slots move more bytes, exact numbers need one more collective and a
// read-back, so they pay off from some number of bytes on that the slots carry for nothing.
struct PatternThresholds {
  // Of one GPU in one layer, sent and received. One collective and one read-back of about 20 us,
  // times the bandwidth: 24 us and 391 GB/s within a node, 102 us and 46 GB/s over 400 Gb/s links.
  int64_t surplus_bytes_in_node = 17'000'000;
  int64_t surplus_bytes_over_network = 5'600'000;
  // Whether any two ranks are on different nodes.
  bool spans_nodes = true;
  // Where the numbers come from, for logs and reports.
  std::string source = "not measured yet on GPUs; from the planner's cost model of NCCL";
};

// Whether slots are the better pattern, of the two that there are, where the busiest owner has
// `num_rows` rows, with buffers that have slots for max_slot_rows.
bool SlotsAreBest(const GroupShape& shape, int num_rows, int max_slot_rows,
                  const PatternThresholds& thresholds);

// Of one step.
struct StepShape {
  absl::Span<const int> num_rows = {};  // [num_ranks]
  // Every owner sends so many rows in slots, whatever it has; 0: what it has.
  int bucket = 0;
  int max_slot_rows = 0;  // rows of one owner that buffers have slots for
};

struct StepPattern {
  Pattern pattern = Pattern::kSlots;
  // Rows between two sources where all routes lie: the most rows of one owner, or the bucket.
  int stride = 0;
};

// InvalidArgument, saying what is wrong, for numbers of rows that can't be, and for a bucket below
// them or for which slots are not best.
absl::StatusOr<StepPattern> ChoosePattern(const GroupShape& shape, const StepShape& step,
                                          const PatternThresholds& thresholds);

// Bytes that one GPU sends and receives in one layer beside routes, in a step whose busiest owner
// has `stride` rows. Exact numbers: of a router without favourites.
//   slots       (N-1) S r + (A-1) S m r, with m slots at the rank of most experts
//   all-to-all  S (D + k) (N-1)/N r, with D distinct ranks of a row (derived in planner/exchange.h)
double BytesInPattern(const GroupShape& shape, Pattern pattern, int stride);

// ---- Slots

// [num_ranks]: of each row at each holder. Replicated: the same at all ranks.
std::vector<int32_t> SlotsOfRanks(const GroupShape& shape);

// Rows of bf16 [hidden], or elements, that the buffers of one rank have. See nccl_exchange.h.
struct BufferSizes {
  int64_t rows = 0;            // own rows
  int64_t expert_ids = 0;      // int32
  int64_t all_expert_ids = 0;  // int32; 0: own are all
  int64_t input = 0;           // rows for this rank's experts; 0: they read own rows
  int64_t packed = 0;
  int64_t outputs = 0;
  int64_t returned = 0;
  int64_t result = 0;  // 0: the outputs are the result
  int64_t pairs = 0;   // ExpertRow
  int64_t places = 0;  // int32: items of CountIncoming and CountOutgoing
  int64_t scratch_items = 0;
};
BufferSizes SizesOfBuffers(const GroupShape& shape, int rank, int max_slot_rows);

// The number of owners; 1 where attention is replicated, since one rank's rows are all.
int NumSources(const GroupShape& shape);
int NumLocalExperts(const GroupShape& shape, int rank);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_STEP_PATTERN_H_
