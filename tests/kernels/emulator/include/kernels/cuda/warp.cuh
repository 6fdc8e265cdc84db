// kernels/cuda/warp.cuh for the emulator. Fragments as in the PTX ISA, sections on mma.m16n8k16,
// ldmatrix and movmatrix.
#ifndef MOE_KERNELS_CUDA_WARP_CUH_
#define MOE_KERNELS_CUDA_WARP_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/bf16.h"

namespace moe::kernels::cuda {

inline constexpr unsigned int kAllLanes = 0xffffffffu;

inline float WidenBf16(BFloat16 x) { return ToFloat(x); }
inline BFloat16 RoundBf16(float x) { return ToBFloat16(x); }
inline uint32_t PackBf16(float low, float high) {
  return ToBFloat16(low).bits | static_cast<uint32_t>(ToBFloat16(high).bits) << 16;
}

inline void CopyAsync(void* to, const void* from, int valid_bytes) {
  emulator::CopyAsync(to, from, valid_bytes);
}
inline void CommitCopies() { emulator::CommitCopies(); }
template <int kPending>
void WaitForCopies() {
  emulator::WaitForCopies(kPending);
}

// The 16-bit elements (row, column) and (row, column + 1) of an 8 x 8 matrix, whose rows the lanes
// 8 matrix .. 8 matrix + 7 have named; or, transposed, (column, row) and (column + 1, row).
inline uint32_t MatrixPair(const emulator::LaneData* rows, int matrix, int row, int column,
                           bool transposed) {
  uint32_t pair = 0;
  for (int i = 0; i < 2; ++i) {
    const int r = transposed ? column + i : row;
    const int c = transposed ? row : column + i;
    const auto* elements =
        reinterpret_cast<const uint16_t*>(emulator::PointerOf(rows[8 * matrix + r]));
    pair |= static_cast<uint32_t>(elements[c]) << (16 * i);
  }
  return pair;
}
inline void LoadMatricesAs(uint32_t (&registers)[4], const void* row, bool transposed) {
  const emulator::LaneData* rows = emulator::ExchangeInWarp(emulator::DataOf(row));
  const int lane = emulator::CurrentLane();
  for (int i = 0; i < 4; ++i) {
    registers[i] = MatrixPair(rows, i, lane / 4, lane % 4 * 2, transposed);
  }
  emulator::MeetWarp();  // one instruction: nobody goes on while others still read
}
inline void LoadMatrices(uint32_t (&registers)[4], const void* row) {
  LoadMatricesAs(registers, row, false);
}
inline void LoadTransposed(uint32_t (&registers)[4], const void* row) {
  LoadMatricesAs(registers, row, true);
}

MOE_EMULATORS_OWN inline uint32_t Transpose(uint32_t matrix) {
  emulator::LaneData mine = {};
  mine.words[0] = matrix;
  const emulator::LaneData* all = emulator::ExchangeInWarp(mine);
  const int lane = emulator::CurrentLane();
  uint32_t result = 0;
  for (int i = 0; i < 2; ++i) {
    // Row lane / 4 of the result is a column of `matrix`: element (row, column) of it lies in lane
    // 4 row + column / 2.
    const int row = lane % 4 * 2 + i;
    const int column = lane / 4;
    const uint32_t pair = all[4 * row + column / 2].words[0];
    result |= (pair >> (16 * (column % 2)) & 0xffffu) << (16 * i);
  }
  return result;
}

MOE_EMULATORS_OWN inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::LaneData mine = {};
  for (int i = 0; i < 4; ++i) mine.words[i] = a[i];
  mine.words[4] = b0;
  mine.words[5] = b1;
  const emulator::LaneData* all = emulator::ExchangeInWarp(mine);
  const auto half = [](uint32_t pair, int i) {
    return __uint_as_float((pair >> (16 * i) & 0xffffu) << 16);
  };
  const int group = emulator::CurrentLane() / 4;
  const int thread = emulator::CurrentLane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8;
    const int column = thread * 2 + i % 2;
    double sum = static_cast<double>(c[i]);
    for (int k = 0; k < 16; ++k) {
      // The lane and register that hold A[row][k] and B[k][column].
      const emulator::LaneData& in_a = all[row % 8 * 4 + k % 8 / 2];
      const emulator::LaneData& in_b = all[column * 4 + k % 8 / 2];
      const float left = half(in_a.words[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k % 2);
      const float right = half(in_b.words[k >= 8 ? 5 : 4], k % 2);
      sum += static_cast<double>(left) * static_cast<double>(right);
    }
    c[i] = static_cast<float>(sum);
  }
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_WARP_CUH_
