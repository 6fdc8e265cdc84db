// The gate of a mixture-of-experts layer.
#ifndef MOE_KERNELS_ROUTER_H_
#define MOE_KERNELS_ROUTER_H_

#include <cstdint>

#include "kernels/context.h"

namespace moe::kernels {

// From gate logits to the experts of each row: softmax in fp32 over all experts, then the top_k
// largest, ties to the lowest id, then weights divided by their sum if normalise_top_k
// (transformers, models/olmoe/modeling_olmoe.py), the sum in descending order. Only after that the
// chosen experts are sorted by ascending id, the order in which CombineExperts adds them.
//   logits       [num_rows, num_experts] fp32
//   expert_ids   [num_rows, top_k] ascending within a row
//   weights      [num_rows, top_k] fp32
// A row with a NaN, or whose largest logit is infinite, gets experts 0 .. top_k-1 with NaN weights:
// the ids are always valid. REQUIRES: 1 <= top_k <= num_experts.
void RouteTopK(const Context& context, const float* logits, int num_rows, int num_experts,
               int top_k, bool normalise_top_k, int32_t* expert_ids, float* weights);

}  // namespace moe::kernels

#endif  // MOE_KERNELS_ROUTER_H_
