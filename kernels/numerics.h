// The order of every floating point operation in this folder.
//
// Output must not depend on the number of rows, on threads, on how a prompt is cut into chunks, on
// the expert-parallel width, or on which instructions the CPU has. So each operation below is one
// fixed sequence of IEEE binary32 operations for each output element, and every implementation of
// it (plain, AVX2, AVX-512, AVX-512 with bf16) performs exactly that sequence.
//
// Dot product of bf16 vectors of length K ("Dot"):
//   16 lanes, all zero at first. For each chunk of 32 elements in ascending order, lane i becomes
//     fma(x[2i], w[2i], fma(x[2i+1], w[2i+1], lane i))       (what vdpbf16ps computes)
//   A last chunk that is short is filled with zeros. Then the tree: lane i += lane i+8 (i < 8),
//   i+4 (i < 4), i+2 (i < 2), i+1 (i < 1); the result is lane 0.
// Sum of fp32 terms over an index ("Sum"): lane j adds terms j, j+16, ... in ascending order; then
//   the same tree.
// Maximum: exact, any order.
// Exp, Sigmoid: the polynomials in simd.h, the same for each level.
//
// Denormal inputs count as zero and denormal results become zero (vdpbf16ps does so always):
// threads that compute hold a ScopedFlushDenormals.
//
// Bits are promised equal within one kNumericsId.
#ifndef MOE_KERNELS_NUMERICS_H_
#define MOE_KERNELS_NUMERICS_H_

#include <string_view>

namespace moe::kernels {

// Changes whenever any output bit of any operation changes.
inline constexpr std::string_view kNumericsId = "cpu-1";

// Sets "flush to zero" and "denormals are zero" for the calling thread while it lives.
class ScopedFlushDenormals {
 public:
  ScopedFlushDenormals();
  ~ScopedFlushDenormals();
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
  unsigned int saved_;
};

}  // namespace moe::kernels

#endif  // MOE_KERNELS_NUMERICS_H_
