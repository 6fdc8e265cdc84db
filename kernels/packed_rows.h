// The layout in which the products read activation rows: a few rows interleaved, so that a tile
// lies in one short run of memory, and padded with zeros, so that no load reaches past its end.
#ifndef MOE_KERNELS_PACKED_ROWS_H_
#define MOE_KERNELS_PACKED_ROWS_H_

#include <cstdint>

#include "kernels/bf16.h"

namespace moe::kernels {

// Elements of one chunk of the dot product (numerics.h).
inline constexpr int kPackedChunk = 32;
// Rows of a tile at most. The tiles of a set of rows are as equal as possible.
inline constexpr int kTileRows = 6;
// Tiles that one pass over weights takes at most: they and the weights share the L2 cache.
inline constexpr int kTilesPerPass = 16;

// Rows r = 0 .. num_rows-1 of `length` elements. Tile t holds rows_in_tile(t) rows from
// first_row(t) on as [num_chunks, rows_in_tile(t), kPackedChunk], and starts where the tile before
// it ends.
struct PackedShape {
  int num_rows = 0;
  int length = 0;

  int num_chunks() const { return (length + kPackedChunk - 1) / kPackedChunk; }
  int num_tiles() const { return (num_rows + kTileRows - 1) / kTileRows; }
  int first_row(int tile) const {
    const int tiles = num_tiles();
    const int larger = num_rows % tiles;  // so many tiles at the front have one row more
    return tile * (num_rows / tiles) + (tile < larger ? tile : larger);
  }
  int rows_in_tile(int tile) const { return first_row(tile + 1) - first_row(tile); }
  // In elements.
  int64_t tile_offset(int tile) const {
    return int64_t{first_row(tile)} * num_chunks() * kPackedChunk;
  }
  int64_t size() const { return int64_t{num_rows} * num_chunks() * kPackedChunk; }
};

// Copies one row into its tile, which starts at `tile`, and fills its last chunk with zeros.
void PackRow(const BFloat16* row, int length, int row_in_tile, int rows_in_tile, BFloat16* tile);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_PACKED_ROWS_H_
