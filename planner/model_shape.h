// What of a Mixture-of-Experts model counts for memory and time. Families differ in many details;
// these are the sizes through which they reach the hardware. Letters in formulas: h hidden, E
// experts, k experts of a token, i width of an expert, L layers, V vocabulary.
//
// Tested by tests/planner/model_shape_test.cc.
#ifndef MOE_PLANNER_MODEL_SHAPE_H_
#define MOE_PLANNER_MODEL_SHAPE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace moe::planner {

struct ModelShape {
  std::string name = {};
  int hidden = 0;
  int num_layers = 0;
  int num_dense_layers = 0;  // of num_layers: with one feed-forward network in place of experts
  int dense_intermediate = 0;
  int num_experts = 0;  // routed, of each layer that has experts
  int top_k = 0;
  int expert_intermediate = 0;
  int shared_intermediate = 0;  // of all shared experts of a layer together; 0: none
  int vocab_size = 0;
  bool tied_embeddings = false;  // the embedding is also lm_head
  int num_heads = 0;
  int num_kv_heads = 0;               // 1: nothing of the KV cache can be split by heads (MLA)
  int64_t attention_params = 0;       // of one layer's projections
  int64_t kv_values_per_token = 0;    // of one layer
  double attention_flops_per_kv = 0;  // of one layer, for one row and one cached token
  int max_positions = 0;
  double bytes_per_weight = 2;      // 2: bf16; 1: fp8
  double bytes_per_kv = 2;          // of one value
  double bytes_per_dispatched = 2;  // of one value of a row on its way to an expert
  double bytes_per_combined = 2;    // of one value of a row on its way back

  int num_moe_layers() const { return num_layers - num_dense_layers; }
  // gate, up and down of one expert of one layer.
  int64_t expert_params() const { return int64_t{3} * hidden * expert_intermediate; }
  int64_t router_params() const { return int64_t{hidden} * num_experts; }
  int64_t shared_params() const { return int64_t{3} * hidden * shared_intermediate; }
  int64_t dense_params() const { return int64_t{3} * hidden * dense_intermediate; }
  int64_t vocab_params() const { return int64_t{vocab_size} * hidden; }
  // Norms are left out: below 0.01% in every model here.
  int64_t total_params() const;
  // That compute one token: what a decode step reads at batch 1, but for the embedding.
  int64_t active_params() const;
  double total_bytes() const { return static_cast<double>(total_params()) * bytes_per_weight; }
  double expert_bytes() const { return static_cast<double>(expert_params()) * bytes_per_weight; }
  // One token of all layers.
  double kv_bytes_per_token() const {
    return static_cast<double>(kv_values_per_token) * bytes_per_kv * num_layers;
  }
};

// Grouped-query attention as in OLMoE, Mixtral and Qwen3: sets attention_params,
// kv_values_per_token and attention_flops_per_kv from the heads.
void SetGroupedQueryAttention(int num_heads, int num_kv_heads, int head_dim, ModelShape* shape);

// Multi-head latent attention (DeepSeek-V2 and V3), computed on the compressed cache: one vector of
// kv_lora_rank and one of rope_dim per token for all heads.
struct LatentAttention {
  int num_heads = 0;
  int q_lora_rank = 0;  // 0: queries are projected directly
  int kv_lora_rank = 0;
  int nope_dim = 0;
  int rope_dim = 0;
  int value_dim = 0;
};
void SetLatentAttention(const LatentAttention& attention, ModelShape* shape);

// InvalidArgument names the first size that makes no sense.
absl::Status CheckShape(const ModelShape& shape);

}  // namespace moe::planner

#endif  // MOE_PLANNER_MODEL_SHAPE_H_
