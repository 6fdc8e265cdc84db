#include "kernels/cuda/attention_plan.h"

#include "kernels/cuda/gemm_schedule.h"

namespace moe::kernels::cuda {

namespace {

// Blocks that keep one multiprocessor busy: narrow ones are short of work each.
constexpr int kNarrowBlocksPerSm = 6;
constexpr int kWideBlocksPerSm = 2;

int NumSplits(int num_keys) { return static_cast<int>(CeilDiv(num_keys, kSplitKeys)); }

}  // namespace

AttentionPlan PlanAttention(absl::Span<const AttentionSlice> slices,
                            const AttentionPlanOptions& options) {
  const int heads_per_kv = options.num_heads / options.num_kv_heads;
  AttentionPlan plan;
  int64_t num_narrow = 0;
  int64_t num_wide = 0;
  const auto is_narrow = [&](const AttentionSlice& slice) {
    return slice.count * heads_per_kv <= kWarpColumns;
  };
  const auto group_columns = [&](const AttentionSlice& slice) {
    return is_narrow(slice) ? kWarpColumns : kWarpColumns * kWideWarps;
  };
  for (const AttentionSlice& slice : slices) {
    const int64_t groups = CeilDiv(slice.count * heads_per_kv, group_columns(slice));
    (is_narrow(slice) ? num_narrow : num_wide) += groups * options.num_kv_heads;
  }
  const bool split_narrow = num_narrow < int64_t{kNarrowBlocksPerSm} * options.num_sms;
  const bool split_wide = num_wide < int64_t{kWideBlocksPerSm} * options.num_sms;

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
    const int step = group_columns(slice);
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

}  // namespace moe::kernels::cuda
