// See rms_norm.h. Tested by tests/kernels/rms_norm_test.cc.
#include "kernels/rms_norm.h"

#include <algorithm>
#include <cstdint>

#include "absl/log/absl_check.h"
#include "kernels/rms_norm_cpu.h"

namespace moe::kernels {

namespace {

// Calls fn(row) for each row, with enough rows in a task to be worth another thread.
template <typename Fn>
void ForEachRow(const Context& context, int num_rows, int hidden, const Fn& fn) {
  constexpr int kElementsPerTask = 32 << 10;
  const int rows_per_task = std::max(1, kElementsPerTask / std::max(1, hidden));
  const int num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  context.pool->ParallelFor(num_tasks, [&](int task) {
    const int last = std::min(num_rows, (task + 1) * rows_per_task);
    for (int row = task * rows_per_task; row < last; ++row) fn(row);
  });
}

}  // namespace

void RmsNorm(const Context& context, const float* x, const BFloat16* weight, float epsilon,
             int num_rows, int hidden, BFloat16* out) {
  ABSL_DCHECK_GE(hidden, 0);
  auto* const norm_row = MOE_KERNELS_SELECT_LEVEL(context.level, RmsNormRow);
  ForEachRow(context, num_rows, hidden, [&](int row) {
    const int64_t at = int64_t{row} * hidden;
    norm_row(x + at, weight, epsilon, hidden, out + at);
  });
}

void RmsNormInPlace(const Context& context, float* x, int row_stride, const BFloat16* weight,
                    float epsilon, int num_rows, int hidden) {
  ABSL_DCHECK_GE(row_stride, hidden);
  auto* const norm_row = MOE_KERNELS_SELECT_LEVEL(context.level, RmsNormRowInPlace);
  ForEachRow(context, num_rows, hidden,
             [&](int row) { norm_row(x + int64_t{row} * row_stride, weight, epsilon, hidden); });
}

}  // namespace moe::kernels
