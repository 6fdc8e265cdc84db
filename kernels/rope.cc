// See rope.h. Tested by tests/kernels/rope_test.cc.
#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/log/absl_check.h"
#include "kernels/portable_math.h"
#include "kernels/rope_cpu.h"

namespace moe::kernels {

RopeTable::RopeTable(int head_dim, int max_positions, double theta)
    : head_dim_(head_dim), max_positions_(max_positions) {
  ABSL_CHECK(head_dim > 0 && head_dim % 2 == 0);
  ABSL_CHECK(max_positions > 0 && max_positions <= kMaxPositions);
  ABSL_CHECK(theta >= 1 && std::isfinite(theta));
  const int half = head_dim / 2;
  std::vector<double> frequencies(half);
  const double log_theta = PortableLog(theta);
  for (int i = 0; i < half; ++i) frequencies[i] = PortableExp(-2.0 * i / head_dim * log_theta);
  cos_.resize(int64_t{max_positions} * half);
  sin_.resize(int64_t{max_positions} * half);
  for (int position = 0; position < max_positions; ++position) {
    for (int i = 0; i < half; ++i) {
      const SinCos value = PortableSinCos(position * frequencies[i]);
      cos_[int64_t{position} * half + i] = static_cast<float>(value.cos);
      sin_[int64_t{position} * half + i] = static_cast<float>(value.sin);
    }
  }
}

const float* RopeTable::cos(int position) const {
  ABSL_DCHECK(position >= 0 && position < max_positions_);
  return cos_.data() + int64_t{position} * (head_dim_ / 2);
}

const float* RopeTable::sin(int position) const {
  ABSL_DCHECK(position >= 0 && position < max_positions_);
  return sin_.data() + int64_t{position} * (head_dim_ / 2);
}

void ApplyRope(const Context& context, const RopeTable& table, const int* positions, int num_rows,
               int num_heads, float* x, int row_stride) {
  const int head_dim = table.head_dim();
  ABSL_DCHECK_GE(row_stride, num_heads * head_dim);
  auto* const rotate_head = MOE_KERNELS_SELECT_LEVEL(context.level, RotateHead);
  constexpr int kElementsPerTask = 32 << 10;
  const int rows_per_task = std::max(1, kElementsPerTask / std::max(1, num_heads * head_dim));
  const int num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  context.pool->ParallelFor(num_tasks, [&](int task) {
    const int last = std::min(num_rows, (task + 1) * rows_per_task);
    for (int row = task * rows_per_task; row < last; ++row) {
      const float* cos = table.cos(positions[row]);
      const float* sin = table.sin(positions[row]);
      float* heads = x + int64_t{row} * row_stride;
      for (int head = 0; head < num_heads; ++head) {
        rotate_head(cos, sin, head_dim / 2, heads + int64_t{head} * head_dim);
      }
    }
  });
}

}  // namespace moe::kernels
