// The per-level part of linear.h: one tile of rows times a run of weight rows.
#ifndef MOE_KERNELS_LINEAR_CPU_H_
#define MOE_KERNELS_LINEAR_CPU_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/levels.h"

namespace moe::kernels {

struct DotTileArgs {
  const BFloat16* x = nullptr;  // a packed tile of num_tokens rows, see packed_rows.h
  int num_tokens = 0;           // 1 .. kTileRows
  const BFloat16* weight = nullptr;  // [num_outputs, in_features]
  int num_outputs = 0;
  int in_features = 0;
  float* out = nullptr;  // [num_tokens, out_stride]
  int64_t out_stride = 0;
  bool accumulate = false;
};

MOE_KERNELS_DECLARE_LEVELS(DotTile, const DotTileArgs& args)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LINEAR_CPU_H_
