// The per-level parts of experts.h.
#ifndef MOE_KERNELS_EXPERTS_CPU_H_
#define MOE_KERNELS_EXPERTS_CPU_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/levels.h"

namespace moe::kernels {

// Intermediate elements of one GateUpTile call at most; a multiple of kPackedChunk.
inline constexpr int kGateUpOutputs = 64;

struct GateUpArgs {
  const BFloat16* x = nullptr;  // a packed tile of num_tokens rows
  int num_tokens = 0;           // 1 .. kTileRows
  const BFloat16* gate = nullptr;  // [num_outputs, in_features]
  const BFloat16* up = nullptr;    // [num_outputs, in_features]
  int num_outputs = 0;             // 1 .. kGateUpOutputs
  int in_features = 0;
  // Where the first of these elements goes in the packed tile of num_tokens rows that the down
  // projection reads. Elements up to the next multiple of kPackedChunk are set to zero.
  BFloat16* hidden = nullptr;
};
// hidden = bf16(silu(gate x) * (up x)).
MOE_KERNELS_DECLARE_LEVELS(GateUpTile, const GateUpArgs& args)

// Outputs of one DownTile call at most.
inline constexpr int kDownOutputs = 128;

struct DownArgs {
  const BFloat16* hidden = nullptr;  // a packed tile of num_tokens rows
  int num_tokens = 0;                // 1 .. kTileRows
  const BFloat16* down = nullptr;    // [num_outputs, in_features]
  int num_outputs = 0;               // 1 .. kDownOutputs
  int in_features = 0;
  BFloat16* const* out = nullptr;  // [num_tokens], each the start of num_outputs elements
};
MOE_KERNELS_DECLARE_LEVELS(DownTile, const DownArgs& args)

// One row of CombineExperts; y, weights and residual are the row's.
MOE_KERNELS_DECLARE_LEVELS(CombineRow, const BFloat16* y, const float* weights, int top_k,
                           int hidden, float* residual)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_EXPERTS_CPU_H_
