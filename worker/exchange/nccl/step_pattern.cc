#include "worker/exchange/nccl/step_pattern.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

int64_t Sum(absl::Span<const int32_t> values) {
  int64_t sum = 0;
  for (const int32_t value : values) sum += value;
  return sum;
}

// Distinct ranks of a row whose top_k experts are any, experts being spread evenly.
double DistinctRanks(const GroupShape& shape) {
  const double experts = shape.num_experts;
  const double elsewhere = experts - experts / shape.num_ranks;
  double none = 1;  // of the row's experts at a given rank
  for (int j = 0; j < shape.top_k; ++j) none *= std::max(0.0, elsewhere - j) / (experts - j);
  return shape.num_ranks * (1 - none);
}

absl::Status CheckRows(const GroupShape& shape, absl::Span<const int> num_rows) {
  if (static_cast<int>(num_rows.size()) != shape.num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows of ", num_rows.size(), " ranks in a group of ", shape.num_ranks));
  }
  bool any = false;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const int count = num_rows[rank];
    if (count < 0 || count > shape.max_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, " has ", count, " rows, not in [0, ", shape.max_rows, "]"));
    }
    if (count > 0 && !shape.replicated && rank >= shape.num_attention_ranks) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " has rows and owns none"));
    }
    if (shape.replicated && count != num_rows[0]) {
      return absl::InvalidArgumentError(absl::StrCat("attention is replicated, and rank ", rank,
                                                     " has ", count, " rows where rank 0 has ",
                                                     num_rows[0]));
    }
    any = any || count > 0;
  }
  return any ? absl::OkStatus() : absl::InvalidArgumentError("a step without rows");
}

Pattern SlotPattern(const GroupShape& shape) {
  return shape.replicated ? Pattern::kReplicatedSlots : Pattern::kSlots;
}
Pattern ExactPattern(const GroupShape& shape) {
  return shape.replicated ? Pattern::kReplicatedExact : Pattern::kAllToAll;
}

}  // namespace

absl::string_view PatternName(Pattern pattern) {
  switch (pattern) {
    case Pattern::kSlots:
      return "slots";
    case Pattern::kAllToAll:
      return "all-to-all";
    case Pattern::kReplicatedSlots:
      return "replicated, slots";
    case Pattern::kReplicatedExact:
      return "replicated, exact";
  }
  return "none";
}

int NumSources(const GroupShape& shape) { return shape.replicated ? 1 : shape.num_attention_ranks; }

int NumLocalExperts(const GroupShape& shape, int rank) {
  return static_cast<int>(
      std::count(shape.rank_of_expert.begin(), shape.rank_of_expert.end(), rank));
}

std::vector<int32_t> SlotsOfRanks(const GroupShape& shape) {
  std::vector<int32_t> slots(shape.num_ranks);
  for (const int rank : shape.rank_of_expert) ++slots[rank];
  for (int32_t& count : slots) count = std::min(count, shape.top_k);
  if (shape.replicated) {
    // An all-gather takes the same from each rank.
    slots.assign(slots.size(), *std::max_element(slots.begin(), slots.end()));
  }
  return slots;
}

double BytesInPattern(const GroupShape& shape, Pattern pattern, int stride) {
  const double row_bytes = 2.0 * shape.hidden;
  const double rows = stride;
  const double others = shape.num_ranks - 1;
  const std::vector<int32_t> slots = SlotsOfRanks(shape);
  const double most_slots = *std::max_element(slots.begin(), slots.end());
  switch (pattern) {
    case Pattern::kSlots:
      // In: rows of all other sources, or slots of all other holders; out: slots for all sources.
      return row_bytes * rows * (others + (NumSources(shape) - 1) * most_slots);
    case Pattern::kAllToAll:
      return row_bytes * rows * (DistinctRanks(shape) + shape.top_k) * others / shape.num_ranks;
    case Pattern::kReplicatedSlots:
      return row_bytes * rows * others * most_slots;
    case Pattern::kReplicatedExact:
      return row_bytes * rows * shape.top_k * others / shape.num_ranks;
  }
  return 0;
}

bool SlotsAreBest(const GroupShape& shape, int num_rows, int max_slot_rows,
                  const PatternThresholds& thresholds) {
  if (num_rows > shape.max_rows) return false;
  // Alone, nothing travels and no slot is unused.
  if (shape.num_ranks == 1) return true;
  if (num_rows > max_slot_rows) return false;
  const double surplus = BytesInPattern(shape, SlotPattern(shape), num_rows) -
                         BytesInPattern(shape, ExactPattern(shape), num_rows);
  const int64_t limit = thresholds.spans_nodes ? thresholds.surplus_bytes_over_network
                                               : thresholds.surplus_bytes_in_node;
  return surplus <= static_cast<double>(limit);
}

absl::StatusOr<StepPattern> ChoosePattern(const GroupShape& shape, const StepShape& step,
                                          const PatternThresholds& thresholds) {
  if (absl::Status status = CheckRows(shape, step.num_rows); !status.ok()) return status;
  const int most = *std::max_element(step.num_rows.begin(), step.num_rows.end());
  if (step.bucket > 0) {
    if (most <= step.bucket && SlotsAreBest(shape, step.bucket, step.max_slot_rows, thresholds)) {
      return StepPattern{.pattern = SlotPattern(shape), .stride = step.bucket};
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "a bucket of ", step.bucket, " rows for a step of ", most,
        " rows of one rank; there are slots for ", std::min(shape.max_rows, step.max_slot_rows)));
  }
  const bool slots = SlotsAreBest(shape, most, step.max_slot_rows, thresholds);
  return StepPattern{.pattern = slots ? SlotPattern(shape) : ExactPattern(shape), .stride = most};
}

BufferSizes SizesOfBuffers(const GroupShape& shape, int rank, int max_slot_rows) {
  const int64_t sources = NumSources(shape);
  const int64_t max_rows = shape.max_rows;
  const int64_t slot_rows = std::min<int64_t>(max_slot_rows, max_rows);
  const int64_t local = NumLocalExperts(shape, rank);
  const int64_t most_outputs = std::min<int64_t>(shape.top_k, local);  // of one row
  const std::vector<int32_t> slots = SlotsOfRanks(shape);
  const bool is_source = shape.replicated || rank < shape.num_attention_ranks;
  BufferSizes sizes;
  // Every rank has room for its own, so that pointers are never null.
  sizes.rows = is_source ? max_rows : 1;
  sizes.expert_ids = sizes.rows * shape.top_k;
  sizes.pairs = sources * max_rows * most_outputs;
  sizes.places = std::max(sources, int64_t{shape.num_ranks}) * max_rows;
  sizes.scratch_items = std::max(sizes.places, local * sources * max_rows);
  if (shape.num_ranks == 1) {
    sizes.outputs = max_rows * shape.top_k;
    return sizes;
  }
  if (is_source) sizes.result = max_rows * shape.top_k;
  if (shape.replicated) {
    sizes.outputs = slot_rows * slots[rank];
    sizes.returned = std::max(slot_rows * Sum(slots), max_rows * shape.top_k);
    return sizes;
  }
  sizes.all_expert_ids = sources * max_rows * shape.top_k;
  sizes.input = sources * max_rows;
  sizes.outputs = sources * max_rows * most_outputs;
  if (is_source) {
    // A row goes to as many ranks as it has experts, at most.
    sizes.packed = max_rows * std::min(shape.top_k, shape.num_ranks);
    sizes.returned = std::max(slot_rows * Sum(slots), max_rows * shape.top_k);
  }
  return sizes;
}

}  // namespace moe::exchange
