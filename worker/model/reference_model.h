// The model that this project is founded on, for whoever needs its sizes without its files.
#ifndef MOE_WORKER_MODEL_REFERENCE_MODEL_H_
#define MOE_WORKER_MODEL_REFERENCE_MODEL_H_

#include "worker/model/config.h"

namespace moe::model {

// allenai/OLMoE-1B-7B-0125-Instruct, config.json.
inline ModelConfig OlmoeConfig() {
  ModelConfig config;
  config.hidden = 2048;
  config.intermediate = 1024;
  config.num_layers = 16;
  config.num_heads = 16;
  config.num_kv_heads = 16;
  config.head_dim = 128;
  config.num_experts = 64;
  config.top_k = 8;
  config.vocab_size = 50304;
  config.max_positions = 4096;
  config.eos_token_ids = {50279};
  return config;
}

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_REFERENCE_MODEL_H_
