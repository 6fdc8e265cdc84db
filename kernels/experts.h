// The feed-forward experts of one layer, and the weighted sum of their outputs.
#ifndef MOE_KERNELS_EXPERTS_H_
#define MOE_KERNELS_EXPERTS_H_

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/context.h"
#include "kernels/scratch.h"

namespace moe::kernels {

// One expert's matrices, where the checkpoint has them. Not owned.
struct ExpertWeights {
  const BFloat16* gate = nullptr;  // [intermediate, hidden]
  const BFloat16* up = nullptr;    // [intermediate, hidden]
  const BFloat16* down = nullptr;  // [hidden, intermediate]
};

// One (token, expert) pair: reads x row `x_row`, writes output row `out_row`.
struct ExpertRow {
  int32_t x_row;
  int32_t out_row;
};

// All rows of one expert.
struct ExpertGroup {
  ExpertWeights weights;
  const ExpertRow* rows = nullptr;  // [num_rows]
  int num_rows = 0;
};

// Memory that grows to the largest call and is then reused. One per calling thread.
struct ExpertWorkspace {
  Scratch rows;    // gathered rows of x
  Scratch hidden;  // what the down projection reads
};

// For each group and each of its rows r, with g = Dot(gate, x), u = Dot(up, x):
//   h = bf16(silu(g) * u),  silu(g) = g * Sigmoid(g)
//   out[r.out_row] = bf16(Dot(down, h))
//   x    [any, x_stride] bf16, the first `hidden` of a row are read
//   out  [any, hidden] bf16; rows not named are left alone
// `x` and `out` may lie in memory that other processes read. One row's bits depend on nothing but
// the row and its expert.
void RunExperts(const Context& context, const ExpertGroup* groups, int num_groups, int hidden,
                int intermediate, const BFloat16* x, int x_stride, BFloat16* out,
                ExpertWorkspace* workspace);

// residual[t][i] += the sum over j = 0 .. top_k-1 in this order (ascending expert id) of
//   fma(weights[t][j], y[t][j][i], sum), sum starting at 0; fp32 throughout.
//   y         [num_rows, top_k, hidden] bf16
//   weights   [num_rows, top_k] fp32
//   residual  [num_rows, hidden] fp32
void CombineExperts(const Context& context, const BFloat16* y, const float* weights, int num_rows,
                    int top_k, int hidden, float* residual);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_EXPERTS_H_
