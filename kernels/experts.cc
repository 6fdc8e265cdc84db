// See experts.h. Tested by tests/kernels/experts_test.cc.
//
// All experts of a layer share three queues of tasks: gather the rows, gate and up, down. A task of
// the last two is a run of one expert's weight rows for all rows of that expert, so that each
// weight is read from memory once.
#include "kernels/experts.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/log/absl_check.h"
#include "kernels/experts_cpu.h"
#include "kernels/packed_rows.h"

namespace moe::kernels {

namespace {

// Where a group's rows lie in the workspace, in elements.
struct GroupPlace {
  const ExpertGroup* group = nullptr;
  PackedShape x;
  PackedShape hidden;
  int64_t x_offset = 0;
  int64_t hidden_offset = 0;
  int first_tile = 0;  // counted over all groups
};

}  // namespace

void RunExperts(const Context& context, const ExpertGroup* groups, int num_groups, int hidden,
                int intermediate, const BFloat16* x, int x_stride, BFloat16* out,
                ExpertWorkspace* workspace) {
  ABSL_DCHECK_GE(num_groups, 0);
  ABSL_DCHECK_GE(x_stride, hidden);
  std::vector<GroupPlace> places;
  places.reserve(num_groups);
  int64_t x_size = 0;
  int64_t hidden_size = 0;
  int num_tiles = 0;
  for (int i = 0; i < num_groups; ++i) {
    if (groups[i].num_rows == 0) continue;
    GroupPlace& place = places.emplace_back();
    place.group = &groups[i];
    place.x = {.num_rows = groups[i].num_rows, .length = hidden};
    place.hidden = {.num_rows = groups[i].num_rows, .length = intermediate};
    place.x_offset = x_size;
    place.hidden_offset = hidden_size;
    place.first_tile = num_tiles;
    x_size += place.x.size();
    hidden_size += place.hidden.size();
    num_tiles += place.x.num_tiles();
  }
  if (places.empty()) return;
  auto* const packed_x = workspace->rows.Get<BFloat16>(x_size);
  auto* const packed_hidden = workspace->hidden.Get<BFloat16>(hidden_size);
  ThreadPool& pool = *context.pool;

  constexpr int kTilesPerTask = 4;
  pool.ParallelFor((num_tiles + kTilesPerTask - 1) / kTilesPerTask, [&](int task) {
    const int first = task * kTilesPerTask;
    const int last = std::min(num_tiles, first + kTilesPerTask);
    auto place =
        std::upper_bound(places.begin(), places.end(), first,
                         [](int tile, const GroupPlace& other) { return tile < other.first_tile; });
    --place;
    for (int i = first; i < last; ++i) {
      while (i - place->first_tile >= place->x.num_tiles()) ++place;
      const int tile = i - place->first_tile;
      const int rows_in_tile = place->x.rows_in_tile(tile);
      for (int row = 0; row < rows_in_tile; ++row) {
        const ExpertRow& source = place->group->rows[place->x.first_row(tile) + row];
        PackRow(x + int64_t{source.x_row} * x_stride, hidden, row, rows_in_tile,
                packed_x + place->x_offset + place->x.tile_offset(tile));
      }
    }
  });

  auto* const gate_up_tiles = MOE_KERNELS_SELECT_LEVEL(context.level, GateUpTiles);
  const int gate_up_tasks = (intermediate + kGateUpOutputs - 1) / kGateUpOutputs;
  const int num_places = static_cast<int>(places.size());
  pool.ParallelFor(num_places * gate_up_tasks, [&](int task) {
    const GroupPlace& place = places[task / gate_up_tasks];
    const int first = task % gate_up_tasks * kGateUpOutputs;
    GateUpArgs args;
    args.gate = place.group->weights.gate + int64_t{first} * hidden;
    args.up = place.group->weights.up + int64_t{first} * hidden;
    args.num_outputs = std::min(kGateUpOutputs, intermediate - first);
    args.in_features = hidden;
    for (int tile = 0; tile < place.x.num_tiles(); tile += kTilesPerPass) {
      args.x = packed_x + place.x_offset + place.x.tile_offset(tile);
      args.num_tiles = std::min(kTilesPerPass, place.x.num_tiles() - tile);
      for (int i = 0; i < args.num_tiles; ++i) {
        const int num_rows = place.x.rows_in_tile(tile + i);
        args.tile_rows[i] = num_rows;
        args.hidden[i] = packed_hidden + place.hidden_offset + place.hidden.tile_offset(tile + i) +
                         int64_t{first} * num_rows;
      }
      gate_up_tiles(args);
    }
  });

  auto* const down_tiles = MOE_KERNELS_SELECT_LEVEL(context.level, DownTiles);
  const int down_tasks = (hidden + kDownOutputs - 1) / kDownOutputs;
  pool.ParallelFor(num_places * down_tasks, [&](int task) {
    const GroupPlace& place = places[task / down_tasks];
    const int first = task % down_tasks * kDownOutputs;
    DownArgs args;
    args.down = place.group->weights.down + int64_t{first} * intermediate;
    args.num_outputs = std::min(kDownOutputs, hidden - first);
    args.in_features = intermediate;
    for (int tile = 0; tile < place.hidden.num_tiles(); tile += kTilesPerPass) {
      args.hidden = packed_hidden + place.hidden_offset + place.hidden.tile_offset(tile);
      args.num_tiles = std::min(kTilesPerPass, place.hidden.num_tiles() - tile);
      int num_rows = 0;
      const ExpertRow* rows = place.group->rows + place.hidden.first_row(tile);
      for (int i = 0; i < args.num_tiles; ++i) {
        args.tile_rows[i] = place.hidden.rows_in_tile(tile + i);
        num_rows += args.tile_rows[i];
      }
      for (int row = 0; row < num_rows; ++row) {
        args.out[row] = out + int64_t{rows[row].out_row} * hidden + first;
      }
      down_tiles(args);
    }
  });
}

void CombineExperts(const Context& context, const BFloat16* y, const float* weights, int num_rows,
                    int top_k, int hidden, float* residual) {
  auto* const combine_row = MOE_KERNELS_SELECT_LEVEL(context.level, CombineRow);
  constexpr int kElementsPerTask = 16 << 10;
  const int rows_per_task = std::max(1, kElementsPerTask / std::max(1, top_k * hidden));
  const int num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  context.pool->ParallelFor(num_tasks, [&](int task) {
    const int last = std::min(num_rows, (task + 1) * rows_per_task);
    for (int row = task * rows_per_task; row < last; ++row) {
      combine_row(y + int64_t{row} * top_k * hidden, weights + int64_t{row} * top_k, top_k, hidden,
                  residual + int64_t{row} * hidden);
    }
  });
}

}  // namespace moe::kernels
