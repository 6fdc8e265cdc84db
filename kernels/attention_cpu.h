// The per-level parts of attention.h.
#ifndef MOE_KERNELS_ATTENTION_CPU_H_
#define MOE_KERNELS_ATTENTION_CPU_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/bf16.h"
#include "kernels/levels.h"

namespace moe::kernels {

// Query rows that share the loads of one K and V.
inline constexpr int kAttentionTileRows = 4;

struct AttentionTileArgs {
  int num_rows = 0;  // 1 .. kAttentionTileRows, all of one sequence and one KV head
  const float* q[kAttentionTileRows] = {};  // [head_dim] each
  int num_keys[kAttentionTileRows] = {};    // 1 or more, never falling from row to row
  BFloat16* out[kAttentionTileRows] = {};   // [head_dim] each
  const int32_t* block_table = nullptr;
  const BFloat16* k = nullptr;  // of the head in block 0
  const BFloat16* v = nullptr;
  int64_t block_stride = 0;
  int head_dim = 0;
  float scale = 0.0f;
  // [num_rows, scores_stride], scores_stride being at least AttentionScoresStride(largest num_keys)
  float* scores = nullptr;
  int64_t scores_stride = 0;
};

// Scores are computed a whole number of blocks at a time.
constexpr int64_t AttentionScoresStride(int num_keys) {
  return (int64_t{num_keys} + kKvBlockTokens - 1) / kKvBlockTokens * kKvBlockTokens;
}

MOE_KERNELS_DECLARE_LEVELS(AttentionTile, const AttentionTileArgs& args)
// out = bf16(x), n elements.
MOE_KERNELS_DECLARE_LEVELS(RoundToBf16, const float* x, int n, BFloat16* out)

}  // namespace moe::kernels

#endif  // MOE_KERNELS_ATTENTION_CPU_H_
