// Rotary position embedding, half-split form (Su et al. 2021, https://arxiv.org/abs/2104.09864; the
// pairing of element i with i + head_dim/2 follows GPT-NeoX and transformers' `rotate_half`).
#ifndef MOE_KERNELS_ROPE_H_
#define MOE_KERNELS_ROPE_H_

#include <vector>

#include "kernels/context.h"

namespace moe::kernels {

// cos and sin for each position, computed once in double and rounded to fp32.
// Immutable after construction; may be shared by threads.
class RopeTable {
 public:
  static constexpr int kMaxPositions = 1 << 20;

  // REQUIRES: head_dim even and > 0, 0 < max_positions <= kMaxPositions, theta >= 1 and finite.
  RopeTable(int head_dim, int max_positions, double theta);

  int head_dim() const { return head_dim_; }
  int max_positions() const { return max_positions_; }
  const float* cos(int position) const;  // [head_dim / 2]
  const float* sin(int position) const;  // [head_dim / 2]

 private:
  int head_dim_;
  int max_positions_;
  std::vector<float> cos_;  // [max_positions, head_dim / 2]
  std::vector<float> sin_;
};

// Rotates each head of each row in place:
//   a = x[i], b = x[i + head_dim/2]:  x[i] = fma(a, cos, -(b * sin)),  x[i + head_dim/2] = fma(b,
//   cos, a * sin) x          [num_rows, row_stride] fp32, of which the first num_heads * head_dim
//   are rotated positions  [num_rows], each in [0, table.max_positions())
void ApplyRope(const Context& context, const RopeTable& table, const int* positions, int num_rows,
               int num_heads, float* x, int row_stride);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_ROPE_H_
