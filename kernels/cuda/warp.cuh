// The instructions that CUDA C++ has no name for, and bf16. Included by .cu files only.
// tests/kernels/emulator has the same functions for the CPU.
#ifndef MOE_KERNELS_CUDA_WARP_CUH_
#define MOE_KERNELS_CUDA_WARP_CUH_

#include <cstdint>

#include "kernels/bf16.h"

namespace moe::kernels::cuda {

inline constexpr unsigned int kAllLanes = 0xffffffffu;

__device__ inline float WidenBf16(BFloat16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }

// Two floats as bf16, rounded to nearest even; the first in the lower half.
__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ inline BFloat16 RoundBf16(float x) {
  return {static_cast<uint16_t>(PackBf16(x, 0.0f) & 0xffffu)};
}

// Starts copying 16 bytes to shared memory, of which the last 16 - valid_bytes are zeros and are
// not read. Both addresses are 16-byte aligned.
__device__ inline void CopyAsync(void* to, const void* from, int valid_bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from),
                 "r"(valid_bytes)
               : "memory");
}

// Ends a group of copies of this thread.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" : : : "memory"); }

// Waits until at most kPending of this thread's groups, the youngest, are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; `row` is the address that this lane names.
__device__ inline void LoadMatrices(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

__device__ inline void LoadTransposed(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// An 8 x 8 matrix of 16-bit elements that the lanes hold as ldmatrix gives it, transposed.
__device__ inline uint32_t Transpose(uint32_t matrix) {
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(matrix));
  return transposed;
}

// c += a b: the one instruction behind every product. A is 16 x 16, B is (b0, b1) 16 x 8, C is 16 x
// 8 (tile_layout.h).
__device__ inline void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_WARP_CUH_
