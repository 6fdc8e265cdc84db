// How a product of tokens and weights is cut: along K by K alone, which fixes its bits, and along
// weights and tokens by what is fast, which does not.
// Tested by tests/kernels/cuda/gemm_schedule_test.cc.
#ifndef MOE_KERNELS_CUDA_GEMM_SCHEDULE_H_
#define MOE_KERNELS_CUDA_GEMM_SCHEDULE_H_

#include <array>
#include <cstdint>

#include "kernels/cuda/tile_layout.h"

namespace moe::kernels::cuda {

// Elements along K of one stage of a pipeline.
inline constexpr int kStepLength = 64;
// A segment is one chain of MMAs. Narrow tiles run all segments at once, one in each warp.
inline constexpr int kMaxSegments = 8;

// K = 0, 1, ... is cut into `count` segments of `length`, the last of which may be shorter.
struct KSegments {
  int length;  // a multiple of kStepLength
  int count;   // 0 .. kMaxSegments; 0 for K = 0 only
};

MOE_HOST_DEVICE constexpr KSegments SegmentsOf(int k) {
  constexpr int kUnit = kMaxSegments * kStepLength;
  const int length = k <= kUnit ? kStepLength : (k + kUnit - 1) / kUnit * kStepLength;
  return {length, (k + length - 1) / length};
}

// Stages that a part of `length` elements takes.
MOE_HOST_DEVICE constexpr int StepsOf(int length) {
  return (length + kStepLength - 1) / kStepLength;
}

// Bytes of a chunk that exist in a row when `left` elements remain from the chunk's start on.
MOE_HOST_DEVICE constexpr int ValidChunkBytes(int left) {
  return left <= 0 ? 0 : left >= kChunk ? 2 * kChunk : 2 * left;
}

// Weight rows and tokens of one block. With two weight matrices (gate and up) the rows are shared.
struct GemmTile {
  int rows;
  int columns;

  constexpr bool operator==(const GemmTile&) const = default;
};

// Tokens of a block: the narrow tiles have one warp for each segment, the others run segments one
// after the other.
inline constexpr std::array<int, 5> kTileColumns = {8, 16, 32, 64, 128};

constexpr GemmTile TileOf(int columns, int num_matrices) {
  if (columns == 8) return {16 * num_matrices, 8};
  return {columns <= 32 ? 32 : 128, columns};
}

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The tile for num_groups products of num_matrices matrices of num_rows rows and about num_columns
// tokens each. The estimate is a block's traffic from the L2 cache and its MMAs, times the waves of
// blocks; derived, to be replaced by measured times.
constexpr GemmTile ChooseTile(int num_rows, int num_columns, int num_groups, int num_matrices,
                              int num_sms) {
  GemmTile best = {};
  int64_t best_cost = INT64_MAX;
  for (const int columns : kTileColumns) {
    const GemmTile tile = TileOf(columns, num_matrices);
    const int64_t blocks = num_groups * CeilDiv(int64_t{num_rows} * num_matrices, tile.rows) *
                           CeilDiv(num_columns, columns);
    const int used = num_columns < columns ? num_columns : columns;
    const int64_t cost =
        CeilDiv(blocks, num_sms) * (tile.rows + used + tile.rows * columns / kStepLength);
    if (cost < best_cost) {
      best_cost = cost;
      best = tile;
    }
  }
  return best;
}

// The matrices of a tile take turns, 16 rows each: row r of the tile is row WeightRow of matrix
// WeightMatrix.
template <int kNumMatrices>
MOE_HOST_DEVICE constexpr int WeightMatrix(int r) {
  return r / 16 % kNumMatrices;
}
template <int kNumMatrices>
MOE_HOST_DEVICE constexpr int WeightRow(int r) {
  return r / 16 / kNumMatrices * 16 + r % 16;
}
// The inverse.
template <int kNumMatrices>
MOE_HOST_DEVICE constexpr int TileRow(int matrix, int row) {
  return (row / 16 * kNumMatrices + matrix) * 16 + row % 16;
}

// Tiles of `columns` tokens that num_pairs tokens can fill at most, however they are spread over
// num_groups groups.
constexpr int MaxGroupTiles(int num_pairs, int num_groups, int columns) {
  const int used = num_pairs < num_groups ? num_pairs : num_groups;  // groups that have a token
  return used + (num_pairs - used) / columns;
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_GEMM_SCHEDULE_H_
