// See numerics.h. Tested by tests/kernels/linear_test.cc (denormals).
#include "kernels/numerics.h"

#if !defined(__x86_64__)
#error "The CPU kernels are written for x86-64."
#endif
#include <xmmintrin.h>

namespace moe::kernels {

namespace {
constexpr unsigned int kDenormalsAreZero = 1u << 6;
constexpr unsigned int kFlushToZero = 1u << 15;
}  // namespace

ScopedFlushDenormals::ScopedFlushDenormals() : saved_(_mm_getcsr()) {
  _mm_setcsr(saved_ | kDenormalsAreZero | kFlushToZero);
}

ScopedFlushDenormals::~ScopedFlushDenormals() {
  constexpr unsigned int kBits = kDenormalsAreZero | kFlushToZero;
  _mm_setcsr((_mm_getcsr() & ~kBits) | (saved_ & kBits));
}

}  // namespace moe::kernels
