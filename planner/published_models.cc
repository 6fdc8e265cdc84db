#include "planner/published_models.h"

namespace moe::planner {

ModelShape Olmoe1b7b() {
  ModelShape shape{.name = "olmoe-1b-7b",
                   .hidden = 2048,
                   .num_layers = 16,
                   .num_experts = 64,
                   .top_k = 8,
                   .expert_intermediate = 1024,
                   .vocab_size = 50304,
                   .max_positions = 4096};
  SetGroupedQueryAttention(16, 16, 128, &shape);
  return shape;
}

ModelShape Mixtral8x7b() {
  ModelShape shape{.name = "mixtral-8x7b",
                   .hidden = 4096,
                   .num_layers = 32,
                   .num_experts = 8,
                   .top_k = 2,
                   .expert_intermediate = 14336,
                   .vocab_size = 32000,
                   .max_positions = 32768};
  SetGroupedQueryAttention(32, 8, 128, &shape);
  return shape;
}

ModelShape Qwen3Moe30b() {
  ModelShape shape{.name = "qwen3-30b-a3b",
                   .hidden = 2048,
                   .num_layers = 48,
                   .num_experts = 128,
                   .top_k = 8,
                   .expert_intermediate = 768,
                   .vocab_size = 151936,
                   .max_positions = 40960};
  SetGroupedQueryAttention(32, 4, 128, &shape);
  return shape;
}

ModelShape DeepSeekV3() {
  ModelShape shape{.name = "deepseek-v3",
                   .hidden = 7168,
                   .num_layers = 61,
                   .num_dense_layers = 3,
                   .dense_intermediate = 18432,
                   .num_experts = 256,
                   .top_k = 8,
                   .expert_intermediate = 2048,
                   .shared_intermediate = 2048,
                   .vocab_size = 129280,
                   .max_positions = 163840,
                   .bytes_per_weight = 1,
                   // One fp32 scale for each 128 values.
                   .bytes_per_dispatched = 1.0 + 4.0 / 128};
  SetLatentAttention({.num_heads = 128,
                      .q_lora_rank = 1536,
                      .kv_lora_rank = 512,
                      .nope_dim = 128,
                      .rope_dim = 64,
                      .value_dim = 128},
                     &shape);
  return shape;
}

std::vector<ModelShape> PublishedModels() {
  return {Olmoe1b7b(), Mixtral8x7b(), Qwen3Moe30b(), DeepSeekV3()};
}

}  // namespace moe::planner
