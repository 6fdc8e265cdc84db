// How bf16 rows lie in device memory.
//
// Products read rows 16 bytes at a time. So a matrix starts at a multiple of 16 bytes and its rows
// are a multiple of kRowAlignment elements apart; who copies a checkpoint's tensor, which is only
// 2-byte aligned there, to the device lays it out so. What lies between a row's last element and
// the next row is never used: it may hold anything, even NaN.
#ifndef MOE_KERNELS_CUDA_MATRIX_H_
#define MOE_KERNELS_CUDA_MATRIX_H_

#include <cstdint>

#include "kernels/bf16.h"

namespace moe::kernels::cuda {

inline constexpr int kRowAlignment = 8;  // elements, 16 bytes

// The smallest stride for rows of `cols` elements.
constexpr int PaddedStride(int cols) {
  return (cols + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

// [rows, stride] bf16 in device memory, of which the first `cols` of each row count. Not owned.
struct Matrix {
  const BFloat16* data = nullptr;
  int rows = 0;
  int cols = 0;
  int stride = 0;
};

// Whether rows at `data` with this stride keep the rules above.
inline bool IsAligned(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % (kRowAlignment * sizeof(BFloat16)) == 0 &&
         stride % kRowAlignment == 0;
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_MATRIX_H_
