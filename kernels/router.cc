// See router.h. Tested by tests/kernels/router_test.cc.
#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/log/absl_check.h"
#include "kernels/log_softmax_cpu.h"

namespace moe::kernels {

namespace {

// The top_k largest of `probabilities` in descending order, the lower id first among equals.
void SelectTopK(const float* probabilities, int num_experts, int top_k, int32_t* ids,
                float* weights) {
  int found = 0;
  for (int id = 0; id < num_experts; ++id) {
    const float p = probabilities[id];
    if (found == top_k && !(p > weights[found - 1])) continue;
    int at = found < top_k ? found++ : found - 1;
    for (; at > 0 && p > weights[at - 1]; --at) {
      weights[at] = weights[at - 1];
      ids[at] = ids[at - 1];
    }
    weights[at] = p;
    ids[at] = id;
  }
}

void SortById(int top_k, int32_t* ids, float* weights) {
  for (int i = 1; i < top_k; ++i) {
    const int32_t id = ids[i];
    const float weight = weights[i];
    int at = i;
    for (; at > 0 && ids[at - 1] > id; --at) {
      ids[at] = ids[at - 1];
      weights[at] = weights[at - 1];
    }
    ids[at] = id;
    weights[at] = weight;
  }
}

}  // namespace

void RouteTopK(const Context& context, const float* logits, int num_rows, int num_experts,
               int top_k, bool normalise_top_k, int32_t* expert_ids, float* weights) {
  ABSL_CHECK(top_k >= 1 && top_k <= num_experts);
  if (num_rows <= 0) return;
  auto* const row_max = MOE_KERNELS_SELECT_LEVEL(context.level, RowMax);
  auto* const row_exp = MOE_KERNELS_SELECT_LEVEL(context.level, RowExp);
  auto* const row_exp_sum = MOE_KERNELS_SELECT_LEVEL(context.level, RowExpSum);
  constexpr int kElementsPerTask = 2048;
  const int rows_per_task = std::max(1, kElementsPerTask / num_experts);
  const int num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  auto* const probabilities = context.pool->scratch().Get<float>(int64_t{num_tasks} * num_experts);
  context.pool->ParallelFor(num_tasks, [&](int task) {
    float* p = probabilities + int64_t{task} * num_experts;
    const int last = std::min(num_rows, (task + 1) * rows_per_task);
    for (int row = task * rows_per_task; row < last; ++row) {
      const float* row_logits = logits + int64_t{row} * num_experts;
      int32_t* row_ids = expert_ids + int64_t{row} * top_k;
      float* row_weights = weights + int64_t{row} * top_k;
      float max = 0.0f;
      float sum = 0.0f;
      row_max(row_logits, num_experts, &max);
      row_exp_sum(row_logits, num_experts, max, &sum);
      if (std::isnan(sum)) {  // a NaN, or a maximum of either infinity
        for (int k = 0; k < top_k; ++k) {
          row_ids[k] = k;
          row_weights[k] = std::numeric_limits<float>::quiet_NaN();
        }
        continue;
      }
      row_exp(row_logits, num_experts, max, p);
      for (int id = 0; id < num_experts; ++id) p[id] /= sum;
      SelectTopK(p, num_experts, top_k, row_ids, row_weights);
      if (normalise_top_k) {
        float total = 0.0f;
        for (int k = 0; k < top_k; ++k) total += row_weights[k];
        for (int k = 0; k < top_k; ++k) row_weights[k] /= total;
      }
      SortById(top_k, row_ids, row_weights);
    }
  });
}

}  // namespace moe::kernels
