// Shapes of published models, so that a plan needs no download. From each model's config.json.
//
// Tested by tests/planner/model_shape_test.cc.
#ifndef MOE_PLANNER_PUBLISHED_MODELS_H_
#define MOE_PLANNER_PUBLISHED_MODELS_H_

#include <vector>

#include "planner/model_shape.h"

namespace moe::planner {

ModelShape Olmoe1b7b();    // allenai/OLMoE-1B-7B-0125-Instruct
ModelShape Mixtral8x7b();  // mistralai/Mixtral-8x7B-v0.1
ModelShape Qwen3Moe30b();  // Qwen/Qwen3-30B-A3B
// deepseek-ai/DeepSeek-V3: fp8 weights and dispatch, bf16 combine and KV cache. The layers of
// multi-token prediction are left out.
ModelShape DeepSeekV3();

std::vector<ModelShape> PublishedModels();

}  // namespace moe::planner

#endif  // MOE_PLANNER_PUBLISHED_MODELS_H_
