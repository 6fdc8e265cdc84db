// Declaring and choosing the copies of a function that is compiled once for each CPU level.
#ifndef MOE_KERNELS_LEVELS_H_
#define MOE_KERNELS_LEVELS_H_

#include "kernels/context.h"

// Declares `void name(arguments)` in the namespace of each level. Use in namespace moe::kernels.
#define MOE_KERNELS_DECLARE_LEVELS(name, ...) \
  namespace plain {                           \
  void name(__VA_ARGS__);                     \
  }                                           \
  namespace avx2 {                            \
  void name(__VA_ARGS__);                     \
  }                                           \
  namespace avx512 {                          \
  void name(__VA_ARGS__);                     \
  }                                           \
  namespace avx512_bf16 {                     \
  void name(__VA_ARGS__);                     \
  }

// The copy of `name` for a level, as a function pointer.
#define MOE_KERNELS_SELECT_LEVEL(level, name)                                                   \
  ::moe::kernels::SelectLevel(level, &::moe::kernels::plain::name, &::moe::kernels::avx2::name, \
                              &::moe::kernels::avx512::name, &::moe::kernels::avx512_bf16::name)

namespace moe::kernels {

template <typename Function>
Function* SelectLevel(CpuLevel level, Function* plain, Function* avx2, Function* avx512,
                      Function* avx512_bf16) {
  switch (level) {
    case CpuLevel::kPlain:
      return plain;
    case CpuLevel::kAvx2:
      return avx2;
    case CpuLevel::kAvx512:
      return avx512;
    case CpuLevel::kAvx512Bf16:
      return avx512_bf16;
  }
  return plain;
}

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LEVELS_H_
