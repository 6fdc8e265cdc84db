// Where the elements of a tile lie in shared memory, and which of them each lane names to ldmatrix.
//
// Fragments of mma.m16n8k16 as in the PTX ISA ("Matrix Fragments for mma.m16n8k16 with floating
// point type"), with g = lane / 4 and t = lane % 4; an a or b register holds two neighbours along
// k:
//   A (16 x 16)  a0: row g, k 2t    a1: row g+8, k 2t    a2: row g, k 2t+8    a3: row g+8, k 2t+8
//   B (16 x 8)   b0: k 2t, column g    b1: k 2t+8, column g
//   C (16 x 8)   c0, c1: row g, columns 2t, 2t+1    c2, c3: row g+8
// ldmatrix gives lane l of matrix i the elements 2 (l % 4) and the next of its row l / 4; lanes
// 8 i .. 8 i + 7 name the rows of matrix i. With .trans it gives column l / 4, rows 2 (l % 4) and
// the next.
//
// Tested by tests/kernels/cuda/tile_layout_test.cc, and on the emulator by every test of a product.
#ifndef MOE_KERNELS_CUDA_TILE_LAYOUT_H_
#define MOE_KERNELS_CUDA_TILE_LAYOUT_H_

#if defined(__CUDACC__)
#define MOE_HOST_DEVICE __host__ __device__
#else
#define MOE_HOST_DEVICE
#endif

namespace moe::kernels::cuda {

// Elements of a chunk: the 16 bytes that one copy or one row of an 8 x 8 matrix has.
inline constexpr int kChunk = 8;

// The index, in chunks, of a row's chunk in a tile of kRowChunks chunks for each row. Any 8 rows
// that start at a multiple of 8 have the same chunk in 8 different 16-byte columns of the 128 bytes
// that shared memory serves at once.
template <int kRowChunks>
MOE_HOST_DEVICE constexpr int SwizzledChunk(int row, int chunk) {
  static_assert(kRowChunks == 4 || kRowChunks % 8 == 0);
  const int shuffled = kRowChunks == 4 ? chunk ^ ((row >> 1) & 3) : chunk ^ (row & 7);
  return row * kRowChunks + shuffled;
}

struct ChunkPlace {
  int row;
  int chunk;
};

// The row address of `lane` for the A fragment of a tile [16 rows][2 chunks].
MOE_HOST_DEVICE constexpr ChunkPlace PlaceOfA(int lane) { return {lane % 16, lane / 16}; }

// The same for the B fragments of two column tiles, [16 columns][2 chunks along k]: registers 0 and
// 1 are columns 0 .. 7, registers 2 and 3 columns 8 .. 15.
MOE_HOST_DEVICE constexpr ChunkPlace PlaceOfTwoB(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

// The same for the B fragments of one column tile at two steps of k, [8 columns][4 chunks]:
// registers 0 and 1 are the first step.
MOE_HOST_DEVICE constexpr ChunkPlace PlaceOfBTwice(int lane) { return {lane % 8, lane / 8}; }

// The same for the A fragment whose rows are stored as columns, [16 along k][2 chunks of rows];
// with .trans.
MOE_HOST_DEVICE constexpr ChunkPlace PlaceOfTransposedA(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

// Row and column of register i of a C fragment.
MOE_HOST_DEVICE constexpr int RowOfC(int lane, int i) { return lane / 4 + i / 2 * 8; }
MOE_HOST_DEVICE constexpr int ColumnOfC(int lane, int i) { return lane % 4 * 2 + i % 2; }

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_TILE_LAYOUT_H_
