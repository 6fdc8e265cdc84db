// See packed_rows.h. Tested by tests/kernels/linear_test.cc.
#include "kernels/packed_rows.h"

#include <cstdint>
#include <cstring>

namespace moe::kernels {

void PackRow(const BFloat16* row, int length, int row_in_tile, int rows_in_tile, BFloat16* tile) {
  const int64_t stride = int64_t{rows_in_tile} * kPackedChunk;
  BFloat16* out = tile + int64_t{row_in_tile} * kPackedChunk;
  const int num_full = length / kPackedChunk;
  for (int chunk = 0; chunk < num_full; ++chunk) {
    std::memcpy(out, row, kPackedChunk * sizeof(BFloat16));
    row += kPackedChunk;
    out += stride;
  }
  const int tail = length % kPackedChunk;
  if (tail != 0) {
    std::memset(out, 0, kPackedChunk * sizeof(BFloat16));
    std::memcpy(out, row, tail * sizeof(BFloat16));
  }
}

}  // namespace moe::kernels
