// The gate of a mixture-of-experts layer on the GPU, and sorting its choice by expert. The CPU's is
// kernels/router.h.
// Tested by tests/kernels/cuda/router_test.cc.
#ifndef MOE_KERNELS_CUDA_ROUTER_H_
#define MOE_KERNELS_CUDA_ROUTER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"
#include "kernels/experts.h"

namespace moe::kernels::cuda {

inline constexpr int kMaxExperts = 1024;
inline constexpr int kMaxTopK = 32;

// As kernels::RouteTopK, with its rules for ties, NaN and infinities; the sum over experts has one
// order for each num_experts.
//   logits       [num_rows, num_experts] fp32
//   expert_ids   [num_rows, top_k] ascending within a row
//   weights      [num_rows, top_k] fp32
//   num_chosen   one number in device memory, or nullptr: rows from it on choose nothing, which is
//                the id num_experts and the weight 0. A captured graph has rows to spare.
// InvalidArgument for more experts than kMaxExperts or a top_k outside 1 .. min(kMaxTopK,
// num_experts).
absl::Status RouteTopK(const Gpu& gpu, const float* logits, int num_rows, int num_experts,
                       int top_k, bool normalise_top_k, int32_t* expert_ids, float* weights,
                       const int32_t* num_chosen = nullptr);

// Sorts the (row, expert) pairs by expert; pairs of one expert stay in the order of their rows.
//   expert_ids  [num_rows, top_k]; ids from num_experts on are nobody's
//   offsets     [num_experts + 1]: expert e has the pairs offsets[e] .. offsets[e + 1] - 1
//   rows        [num_rows * top_k]: x_row is the pair's row, out_row its place in expert_ids
absl::Status SortByExpert(const Gpu& gpu, const int32_t* expert_ids, int num_rows, int top_k,
                          int num_experts, int32_t* offsets, ExpertRow* rows);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_ROUTER_H_
