#include "worker/cuda/step_upload.h"

#include <algorithm>

#include "kernels/attention.h"

namespace moe::cuda {
namespace {

using kernels::cuda::AttentionMerge;
using kernels::cuda::AttentionPlan;
using kernels::cuda::AttentionUnit;
using kernels::cuda::DeviceSlice;

// Copies `values` and fills what is left of `size` with `spare`.
template <typename T>
void FillPart(const std::vector<T>& values, int size, const T& spare, T* to) {
  T* const end = std::copy(values.begin(), values.end(), to);
  std::fill(end, to + size, spare);
}

}  // namespace

int PaddedCount(int count) {
  int power = 1;
  while (power < count) power *= 2;
  if (count <= 0) return 0;
  const int between = power / 4 * 3;
  return between >= count ? between : power;
}

bool Fits(const StepShape& shape, const StepShape& other) {
  return shape.num_rows <= other.num_rows && shape.num_narrow <= other.num_narrow &&
         shape.num_wide <= other.num_wide && shape.num_merges <= other.num_merges;
}

StepShape ShapeOf(const AttentionPlan& plan) {
  return {.num_rows = static_cast<int>(plan.positions.size()),
          .num_narrow = static_cast<int>(plan.narrow.size()),
          .num_wide = static_cast<int>(plan.wide.size()),
          .num_merges = static_cast<int>(plan.merges.size())};
}

StepShape PaddedShape(const StepShape& shape) {
  return {.num_rows = PaddedCount(shape.num_rows),
          .num_narrow = PaddedCount(shape.num_narrow),
          .num_wide = PaddedCount(shape.num_wide),
          .num_merges = PaddedCount(shape.num_merges)};
}

StepView LayOutStep(const StepShape& shape, int table_size, Bump* memory) {
  StepView view;
  view.num_chosen = memory->Take<int32_t>(1);
  view.tokens = memory->Take<int32_t>(shape.num_rows);
  view.positions = memory->Take<int32_t>(shape.num_rows);
  view.slots = memory->Take<int32_t>(shape.num_rows);
  view.slices = memory->Take<DeviceSlice>(shape.num_rows + 1);
  view.narrow = memory->Take<AttentionUnit>(shape.num_narrow);
  view.wide = memory->Take<AttentionUnit>(shape.num_wide);
  view.merges = memory->Take<AttentionMerge>(shape.num_merges);
  view.block_table = memory->Take<int32_t>(table_size);
  return view;
}

uint64_t StepBytes(const StepShape& shape, int table_size) {
  Bump memory;
  LayOutStep(shape, table_size, &memory);
  return memory.num_bytes();
}

void FillStep(const AttentionPlan& plan, absl::Span<const int32_t> tokens, const StepShape& shape,
              const SpareRoom& spare, const StepView& view) {
  const int num_chosen = static_cast<int>(tokens.size());
  *view.num_chosen = num_chosen;
  std::copy(tokens.begin(), tokens.end(), view.tokens);
  std::fill(view.tokens + num_chosen, view.tokens + shape.num_rows, 0);
  FillPart(plan.positions, shape.num_rows, 0, view.positions);
  std::copy(plan.slots.begin(), plan.slots.end(), view.slots);
  for (int row = num_chosen; row < shape.num_rows; ++row) {
    view.slots[row] =
        spare.block * kernels::kKvBlockTokens + (row - num_chosen) % kernels::kKvBlockTokens;
  }
  // A unit of a slice without rows reads and writes nothing.
  FillPart(plan.slices, shape.num_rows + 1, DeviceSlice{0, 0, 0, 0}, view.slices);
  const AttentionUnit idle = {shape.num_rows, 0, kernels::cuda::kAllSplits, 0};
  FillPart(plan.narrow, shape.num_narrow, idle, view.narrow);
  FillPart(plan.wide, shape.num_wide, idle, view.wide);
  FillPart(plan.merges, shape.num_merges, AttentionMerge{spare.row, 0, 0, 0}, view.merges);
  std::copy(plan.block_table.begin(), plan.block_table.end(), view.block_table);
}

}  // namespace moe::cuda
