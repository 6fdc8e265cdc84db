// The per-level part of linear.h: some tiles of rows times a run of weight rows.
#ifndef MOE_KERNELS_LINEAR_CPU_H_
#define MOE_KERNELS_LINEAR_CPU_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/levels.h"
#include "kernels/packed_rows.h"

namespace moe::kernels {

struct DotTilesArgs {
  const BFloat16* x = nullptr;  // the first of num_tiles packed tiles, see packed_rows.h
  int num_tiles = 0;            // 1 .. kTilesPerPass
  int tile_rows[kTilesPerPass] = {};
  const BFloat16* weight = nullptr;  // [num_outputs, in_features]
  int num_outputs = 0;
  int in_features = 0;
  float* out = nullptr;  // [sum of tile_rows, out_stride]
  int64_t out_stride = 0;
  bool accumulate = false;
  // The weights that are probably read after these, for prefetching: never read here.
  const BFloat16* next_weight = nullptr;
};

MOE_KERNELS_DECLARE_LEVELS(DotTiles, const DotTilesArgs& args)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_LINEAR_CPU_H_
