// See attention.h. Tested by tests/kernels/attention_test.cc.
//
// A task is a run of rows of one sequence for a run of KV heads. Rows here are (position, query
// head) pairs: query heads that share a KV head share its loads just as neighbouring positions do.
#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/log/absl_check.h"
#include "kernels/attention_cpu.h"

namespace moe::kernels {

namespace {

// Rows of a task at most: the KV of a head then stays in the L2 cache for several tiles.
constexpr int kRowsPerTask = 4 * kAttentionTileRows;

// The row (position, query head) pairs of one slice and KV head, in tasks.
struct SliceTasks {
  int first_task = 0;
  int num_row_blocks = 0;
};

}  // namespace

void StoreKv(const Context& context, const AttentionSlice* slices, int num_slices, const float* k,
             const float* v, int row_stride, const KvLayerView& cache) {
  ABSL_DCHECK_GE(row_stride, cache.num_kv_heads * cache.head_dim);
  auto* const round = MOE_KERNELS_SELECT_LEVEL(context.level, RoundToBf16);
  const int64_t head_stride = int64_t{kKvBlockTokens} * cache.head_dim;
  // One task for each run of positions in one block, which has at most kKvBlockTokens rows.
  const auto num_runs = [](const AttentionSlice& slice) {
    if (slice.count == 0) return 0;
    return (slice.start + slice.count - 1) / kKvBlockTokens - slice.start / kKvBlockTokens + 1;
  };
  std::vector<int> first_task(num_slices + 1, 0);
  for (int i = 0; i < num_slices; ++i) first_task[i + 1] = first_task[i] + num_runs(slices[i]);
  // Runs of decode rows are short: several to a task.
  constexpr int kRunsPerTask = 4;
  const int num_all_runs = first_task[num_slices];
  context.pool->ParallelFor((num_all_runs + kRunsPerTask - 1) / kRunsPerTask, [&](int task) {
    const int last_run = std::min(num_all_runs, (task + 1) * kRunsPerTask);
    for (int run = task * kRunsPerTask; run < last_run; ++run) {
      const auto after = std::upper_bound(first_task.begin(), first_task.end(), run);
      const int slice_idx = static_cast<int>(after - first_task.begin()) - 1;
      const AttentionSlice& slice = slices[slice_idx];
      const int block = slice.start / kKvBlockTokens + run - first_task[slice_idx];
      const int begin = std::max(slice.start, block * kKvBlockTokens);
      const int end = std::min(slice.start + slice.count, (block + 1) * kKvBlockTokens);
      const int64_t block_start = slice.block_table[block] * cache.block_stride;
      for (int position = begin; position < end; ++position) {
        const int64_t row = int64_t{slice.first_row + position - slice.start} * row_stride;
        for (int head = 0; head < cache.num_kv_heads; ++head) {
          const int64_t from = row + int64_t{head} * cache.head_dim;
          const int64_t to = block_start + head * head_stride +
                             int64_t{position % kKvBlockTokens} * cache.head_dim;
          round(k + from, cache.head_dim, cache.k + to);
          round(v + from, cache.head_dim, cache.v + to);
        }
      }
    }
  });
}

void PagedAttention(const Context& context, const AttentionSlice* slices, int num_slices,
                    const float* q, int q_stride, int num_heads, float scale,
                    const KvLayerView& cache, BFloat16* out) {
  ABSL_DCHECK_GE(q_stride, num_heads * cache.head_dim);
  ABSL_CHECK(cache.num_kv_heads > 0 && num_heads % cache.num_kv_heads == 0);
  const int head_dim = cache.head_dim;
  const int heads_per_kv = num_heads / cache.num_kv_heads;
  auto* const attend = MOE_KERNELS_SELECT_LEVEL(context.level, AttentionTile);

  int64_t total_keys = 0;
  int most_keys = 0;
  int num_used = 0;
  for (int i = 0; i < num_slices; ++i) {
    if (slices[i].count == 0) continue;
    const int keys = slices[i].start + slices[i].count;
    total_keys += int64_t{keys} * std::min(kRowsPerTask, slices[i].count * heads_per_kv);
    most_keys = std::max(most_keys, keys);
    ++num_used;
  }
  if (num_used == 0) return;
  // Short contexts: enough KV heads in a task to be worth taking it.
  constexpr int64_t kKeysPerTask = 512;
  const int heads_per_task = static_cast<int>(
      std::clamp<int64_t>(kKeysPerTask * num_used / total_keys, 1, cache.num_kv_heads));
  const int num_head_blocks = (cache.num_kv_heads + heads_per_task - 1) / heads_per_task;

  std::vector<SliceTasks> slice_tasks(num_slices);
  int num_tasks = 0;
  for (int i = 0; i < num_slices; ++i) {
    slice_tasks[i].first_task = num_tasks;
    slice_tasks[i].num_row_blocks =
        (slices[i].count * heads_per_kv + kRowsPerTask - 1) / kRowsPerTask;
    num_tasks += slice_tasks[i].num_row_blocks * num_head_blocks;
  }

  const auto run_task = [&](int task, float* scores, int64_t scores_stride) {
    const auto after = std::upper_bound(
        slice_tasks.begin(), slice_tasks.end(), task,
        [](int value, const SliceTasks& other) { return value < other.first_task; });
    const auto slice_idx = (after - slice_tasks.begin()) - 1;
    const AttentionSlice& slice = slices[slice_idx];
    const int in_slice = task - slice_tasks[slice_idx].first_task;
    const int first_row = in_slice / num_head_blocks * kRowsPerTask;
    const int end_row = std::min(slice.count * heads_per_kv, first_row + kRowsPerTask);
    const int first_head = in_slice % num_head_blocks * heads_per_task;
    const int end_head = std::min(cache.num_kv_heads, first_head + heads_per_task);
    for (int head = first_head; head < end_head; ++head) {
      const int64_t head_start = int64_t{head} * kKvBlockTokens * head_dim;
      AttentionTileArgs args;
      args.block_table = slice.block_table;
      args.k = cache.k + head_start;
      args.v = cache.v + head_start;
      args.block_stride = cache.block_stride;
      args.head_dim = head_dim;
      args.scale = scale;
      args.scores = scores;
      args.scores_stride = scores_stride;
      for (int row = first_row; row < end_row; row += kAttentionTileRows) {
        args.num_rows = std::min(kAttentionTileRows, end_row - row);
        for (int r = 0; r < args.num_rows; ++r) {
          const int position = (row + r) / heads_per_kv;
          const int64_t query_head = int64_t{head} * heads_per_kv + (row + r) % heads_per_kv;
          const int64_t batch_row = slice.first_row + position;
          args.q[r] = q + batch_row * q_stride + query_head * head_dim;
          args.num_keys[r] = slice.start + position + 1;
          args.out[r] = out + (batch_row * num_heads + query_head) * head_dim;
        }
        attend(args);
      }
    }
  };

  // One loop task for each thread, which then takes from a queue: a thread needs its own scores.
  const int num_loops = std::min(context.pool->num_threads(), num_tasks);
  const int64_t scores_stride = AttentionScoresStride(most_keys);
  const int64_t scores_size = scores_stride * kAttentionTileRows;
  auto* const all_scores = context.pool->scratch().Get<float>(num_loops * scores_size);
  std::atomic<int> next = num_tasks;
  context.pool->ParallelFor(num_loops, [&](int loop) {
    // From the back: later rows of a prompt have more keys, so the long tasks go first.
    for (int task = next.fetch_sub(1) - 1; task >= 0; task = next.fetch_sub(1) - 1) {
      run_task(task, all_scores + loop * scores_size, scores_stride);
    }
  });
}

}  // namespace moe::kernels
