// The feed-forward experts of one layer on the GPU, and the weighted sum of their outputs. The
// CPU's are in kernels/experts.h, with the formulas. Tested by tests/kernels/cuda/experts_test.cc.
#ifndef MOE_KERNELS_CUDA_EXPERTS_H_
#define MOE_KERNELS_CUDA_EXPERTS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matrix.h"
#include "kernels/experts.h"

namespace moe::kernels::cuda {

// All pointers are to device memory.
struct ExpertsArgs {
  int num_experts = 0;
  int hidden = 0;
  int intermediate = 0;
  // [num_experts]: gate and up are rows of gate_stride elements, down of down_stride; aligned as
  // matrix.h says.
  const ExpertWeights* weights = nullptr;
  int gate_stride = 0;
  int down_stride = 0;
  // Expert e runs the rows [offsets[e], offsets[e + 1]) of `rows` (SortByExpert of router.h makes
  // both).
  const int32_t* offsets = nullptr;  // [num_experts + 1]
  const ExpertRow* rows = nullptr;   // [num_pairs]
  int num_pairs = 0;                 // offsets[num_experts] at most
  int num_tokens = 0;           // pairs of one expert at most; only the choice of tiles sees it
  const BFloat16* x = nullptr;  // [any, x_stride]
  int x_stride = 0;
  BFloat16* gated = nullptr;  // workspace [num_pairs, PaddedStride(intermediate)]
  BFloat16* out = nullptr;    // [any, hidden]; rows that are not named are left alone
};

// For each expert and each of its rows r, with g and u the products of x[r.x_row] with gate and up
// in the order of gemm.cuh:
//   h = bf16(g * sigmoid(g) * u);  out[r.out_row] = bf16(the product of h with down)
// One row's bits depend on the row and its expert alone. Enqueued in gpu.stream. InvalidArgument
// for rows that are not aligned.
absl::Status RunExperts(const Gpu& gpu, const ExpertsArgs& args);

// The same with tiles of `columns` tokens (kTileColumns of gemm_schedule.h): for tests and
// measurements. RunExperts() chooses.
absl::Status RunExpertsWithTile(const Gpu& gpu, const ExpertsArgs& args, int columns);

// residual[t][i] += the sum over j = 0 .. top_k-1 in this order of fma(weights[t][j], y[t][j][i],
// sum), sum starting at 0.
//   y         [num_rows, top_k, hidden] bf16
//   weights   [num_rows, top_k] fp32
//   residual  [num_rows, hidden] fp32
absl::Status CombineExperts(const Gpu& gpu, const BFloat16* y, const float* weights, int num_rows,
                            int top_k, int hidden, float* residual);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_EXPERTS_H_
