// See linear.h. Tested by tests/kernels/linear_test.cc.
//
// A task is a run of weight rows for all activation rows, which pass a few tiles at a time.
#include "kernels/linear.h"

#include <algorithm>
#include <cstdint>

#include "absl/log/absl_check.h"
#include "kernels/linear_cpu.h"
#include "kernels/packed_rows.h"

namespace moe::kernels {

namespace {

// Weight rows of a task: as many as fit half an L2 cache, fewer where threads would be idle.
int OutputsPerTask(int in_features, int out_features, int num_threads) {
  constexpr int64_t kWeightBytes = 256 << 10;
  constexpr int kTasksPerThread = 8;
  constexpr int kStep = 8;  // a multiple of every level's register tile
  const int64_t fitting = kWeightBytes / (int64_t{2} * std::max(in_features, 1));
  const int64_t balanced = out_features / (int64_t{kTasksPerThread} * num_threads);
  const int64_t wanted = std::min(fitting, balanced) / kStep * kStep;
  return static_cast<int>(std::clamp<int64_t>(wanted, kStep, 512));
}

}  // namespace

void Linear(const Context& context, const BFloat16* x, const BFloat16* weight, int num_rows,
            int in_features, int out_features, float* out, int out_stride, Accumulate accumulate) {
  ABSL_DCHECK_GE(num_rows, 0);
  ABSL_DCHECK_GE(in_features, 0);
  ABSL_DCHECK_GE(out_features, 0);
  ABSL_DCHECK_GE(out_stride, out_features);
  if (num_rows == 0 || out_features == 0) return;
  auto* const dot_tiles = MOE_KERNELS_SELECT_LEVEL(context.level, DotTiles);
  ThreadPool& pool = *context.pool;

  const PackedShape shape = {.num_rows = num_rows, .length = in_features};
  const BFloat16* packed = x;
  if (num_rows > 1 || in_features % kPackedChunk != 0) {  // else it is packed already
    auto* const copy = pool.scratch().Get<BFloat16>(shape.size());
    constexpr int kTilesPerTask = 4;
    const int num_tasks = (shape.num_tiles() + kTilesPerTask - 1) / kTilesPerTask;
    pool.ParallelFor(num_tasks, [&](int task) {
      const int last = std::min(shape.num_tiles(), (task + 1) * kTilesPerTask);
      for (int tile = task * kTilesPerTask; tile < last; ++tile) {
        const int first_row = shape.first_row(tile);
        const int rows_in_tile = shape.rows_in_tile(tile);
        for (int row = 0; row < rows_in_tile; ++row) {
          PackRow(x + int64_t{first_row + row} * in_features, in_features, row, rows_in_tile,
                  copy + shape.tile_offset(tile));
        }
      }
    });
    packed = copy;
  }

  const int outputs_per_task = OutputsPerTask(in_features, out_features, pool.num_threads());
  const int num_tasks = (out_features + outputs_per_task - 1) / outputs_per_task;
  pool.ParallelFor(num_tasks, [&](int task) {
    const int first = task * outputs_per_task;
    DotTilesArgs args;
    args.weight = weight + int64_t{first} * in_features;
    args.num_outputs = std::min(outputs_per_task, out_features - first);
    args.in_features = in_features;
    args.out_stride = out_stride;
    args.accumulate = accumulate == Accumulate::kYes;
    for (int tile = 0; tile < shape.num_tiles(); tile += kTilesPerPass) {
      args.x = packed + shape.tile_offset(tile);
      args.num_tiles = std::min(kTilesPerPass, shape.num_tiles() - tile);
      for (int i = 0; i < args.num_tiles; ++i) args.tile_rows[i] = shape.rows_in_tile(tile + i);
      args.out = out + int64_t{shape.first_row(tile)} * out_stride + first;
      const bool last_pass = tile + kTilesPerPass >= shape.num_tiles();
      args.next_weight =
          last_pass ? args.weight + int64_t{args.num_outputs} * in_features : args.weight;
      dot_tiles(args);
    }
  });
}

}  // namespace moe::kernels
