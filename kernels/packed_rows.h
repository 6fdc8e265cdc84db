// The layout in which the products read activation rows: a few rows interleaved, so that a tile
// lies in one short run of memory, and padded with zeros, so that no load reaches past its end.
#ifndef MOE_KERNELS_PACKED_ROWS_H_
#define MOE_KERNELS_PACKED_ROWS_H_

#include <cstdint>

#include "kernels/bf16.h"

namespace moe::kernels {

// Elements of one chunk of the dot product (numerics.h).
inline constexpr int kPackedChunk = 32;
// Rows of a full tile; the last tile of a set of rows may have fewer.
inline constexpr int kTileRows = 6;

// Rows r = 0 .. num_rows-1 of `length` elements. Tile t holds rows [t * kTileRows, t * kTileRows +
// rows_in_tile) as [num_chunks, rows_in_tile, kPackedChunk], and starts where the tiles before end.
struct PackedShape {
  int num_rows = 0;
  int length = 0;

  constexpr int num_chunks() const { return (length + kPackedChunk - 1) / kPackedChunk; }
  constexpr int num_tiles() const { return (num_rows + kTileRows - 1) / kTileRows; }
  constexpr int rows_in_tile(int tile) const {
    const int left = num_rows - tile * kTileRows;
    return left < kTileRows ? left : kTileRows;
  }
  // In elements.
  constexpr int64_t tile_offset(int tile) const {
    return int64_t{tile} * kTileRows * num_chunks() * kPackedChunk;
  }
  constexpr int64_t size() const { return int64_t{num_rows} * num_chunks() * kPackedChunk; }
};

// Copies one row into its tile, which starts at `tile`, and fills its last chunk with zeros.
void PackRow(const BFloat16* row, int length, int row_in_tile, int rows_in_tile, BFloat16* tile);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_PACKED_ROWS_H_
