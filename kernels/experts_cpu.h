// The per-level parts of experts.h.
#ifndef MOE_KERNELS_EXPERTS_CPU_H_
#define MOE_KERNELS_EXPERTS_CPU_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/levels.h"
#include "kernels/packed_rows.h"

namespace moe::kernels {

// Intermediate elements of one GateUpTiles call at most; a multiple of kPackedChunk.
inline constexpr int kGateUpOutputs = 32;

struct GateUpArgs {
  const BFloat16* x = nullptr;  // the first of num_tiles packed tiles, see packed_rows.h
  int num_tiles = 0;            // 1 .. kTilesPerPass
  int tile_rows[kTilesPerPass] = {};
  const BFloat16* gate = nullptr;  // [num_outputs, in_features]
  const BFloat16* up = nullptr;    // [num_outputs, in_features]
  int num_outputs = 0;             // 1 .. kGateUpOutputs
  int in_features = 0;
  // Where these elements go in each of the packed tiles that the down projection reads. The chunk
  // is filled up with zeros.
  BFloat16* hidden[kTilesPerPass] = {};
};
// hidden = bf16(silu(gate x) * (up x)).
MOE_KERNELS_DECLARE_LEVELS(GateUpTiles, const GateUpArgs& args)

// Outputs of one DownTiles call at most.
inline constexpr int kDownOutputs = 64;

struct DownArgs {
  const BFloat16* hidden = nullptr;  // the first of num_tiles packed tiles
  int num_tiles = 0;                 // 1 .. kTilesPerPass
  int tile_rows[kTilesPerPass] = {};
  const BFloat16* down = nullptr;  // [num_outputs, in_features]
  int num_outputs = 0;             // 1 .. kDownOutputs
  int in_features = 0;
  // For each row of the tiles, the start of num_outputs elements.
  BFloat16* out[kTilesPerPass * kTileRows] = {};
};
MOE_KERNELS_DECLARE_LEVELS(DownTiles, const DownArgs& args)

// One row of CombineExperts; y, weights and residual are the row's.
MOE_KERNELS_DECLARE_LEVELS(CombineRow, const BFloat16* y, const float* weights, int top_k,
                           int hidden, float* residual)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_EXPERTS_CPU_H_
