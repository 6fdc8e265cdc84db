#include "kernels/cuda/attention_plan.h"

#include <algorithm>

#include "kernels/cuda/gemm_schedule.h"

namespace moe::kernels::cuda {

namespace {

// Blocks that keep one multiprocessor busy: narrow ones are short of work each.
constexpr int kNarrowBlocksPerSm = 6;
constexpr int kWideBlocksPerSm = 2;

int NumSplits(int num_keys) { return static_cast<int>(CeilDiv(num_keys, kSplitKeys)); }

bool IsNarrow(int num_columns) { return num_columns <= kWarpColumns; }

// Columns that a block has at most.
int GroupColumns(bool narrow) { return narrow ? kWarpColumns : kWarpColumns * kWideWarps; }

// Whether `num_blocks` blocks without splits would leave multiprocessors idle.
bool IsShortOfWork(int64_t num_blocks, bool narrow, const AttentionPlanOptions& options) {
  return num_blocks < int64_t{narrow ? kNarrowBlocksPerSm : kWideBlocksPerSm} * options.num_sms;
}

}  // namespace

AttentionPlan PlanAttention(absl::Span<const AttentionSlice> slices,
                            const AttentionPlanOptions& options) {
  const int heads_per_kv = options.num_heads / options.num_kv_heads;
  AttentionPlan plan;
  int64_t num_narrow = 0;
  int64_t num_wide = 0;
  const auto is_narrow = [&](const AttentionSlice& slice) {
    return IsNarrow(slice.count * heads_per_kv);
  };
  for (const AttentionSlice& slice : slices) {
    const int64_t groups = CeilDiv(slice.count * heads_per_kv, GroupColumns(is_narrow(slice)));
    (is_narrow(slice) ? num_narrow : num_wide) += groups * options.num_kv_heads;
  }
  const bool split_narrow = IsShortOfWork(num_narrow, true, options);
  const bool split_wide = IsShortOfWork(num_wide, false, options);

  for (const AttentionSlice& slice : slices) {
    if (slice.count == 0) continue;
    const auto slice_idx = static_cast<int32_t>(plan.slices.size());
    const auto first_block = static_cast<int32_t>(plan.block_table.size());
    plan.slices.push_back({slice.first_row, slice.start, slice.count, first_block});
    const int end = slice.start + slice.count;
    plan.block_table.insert(plan.block_table.end(), slice.block_table,
                            slice.block_table + CeilDiv(end, kKvBlockTokens));
    for (int position = slice.start; position < end; ++position) {
      plan.positions.push_back(position);
      plan.slots.push_back(slice.block_table[position / kKvBlockTokens] * kKvBlockTokens +
                           position % kKvBlockTokens);
    }

    const bool narrow = is_narrow(slice);
    std::vector<AttentionUnit>& units = narrow ? plan.narrow : plan.wide;
    const int columns = slice.count * heads_per_kv;
    const int step = GroupColumns(narrow);
    const int num_splits = NumSplits(end);
    const int64_t wanted = int64_t{num_splits} * slice.count;
    if (num_splits == 1 || !(narrow ? split_narrow : split_wide) ||
        plan.num_partials + wanted > options.max_partials) {
      for (int column = 0; column < columns; column += step) {
        units.push_back({slice_idx, column, kAllSplits, 0});
      }
      continue;
    }
    const int32_t first_partial = plan.num_partials;
    plan.num_partials += static_cast<int32_t>(wanted);
    for (int column = 0; column < columns; column += step) {
      const int last_column = (column + step < columns ? column + step : columns) - 1;
      const int group_splits = NumSplits(slice.start + last_column / heads_per_kv + 1);
      for (int split = 0; split < group_splits; ++split) {
        units.push_back({slice_idx, column, split, first_partial});
      }
    }
    for (int p = 0; p < slice.count; ++p) {
      plan.merges.push_back(
          {slice.first_row + p, first_partial + p, slice.count, NumSplits(slice.start + p + 1)});
    }
  }
  return plan;
}

DecodeUnits MostDecodeUnits(int num_rows, int64_t num_keys, int longest,
                            const AttentionPlanOptions& options) {
  const int heads_per_kv = options.num_heads / options.num_kv_heads;
  const bool narrow = IsNarrow(heads_per_kv);
  const auto groups = static_cast<int>(CeilDiv(heads_per_kv, GroupColumns(narrow)));
  const bool split =
      NumSplits(longest) > 1 &&
      IsShortOfWork(int64_t{num_rows} * groups * options.num_kv_heads, narrow, options);
  int64_t splits = num_rows;
  if (split) {
    // A row of n keys has less than n / kSplitKeys + 1 splits, and each takes a partial result.
    splits += std::min<int64_t>(num_keys / kSplitKeys, options.max_partials);
  }
  const auto units = static_cast<int>(splits * groups);
  return {.num_narrow = narrow ? units : 0,
          .num_wide = narrow ? 0 : units,
          .num_merges = split ? num_rows : 0};
}

}  // namespace moe::kernels::cuda
