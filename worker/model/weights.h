// Where the matrices of a model lie. Plain pointers, not owned: they point into a Checkpoint's
// mapping and are valid while it lives. All are row-major bf16, as in the file.
#ifndef MOE_WORKER_MODEL_WEIGHTS_H_
#define MOE_WORKER_MODEL_WEIGHTS_H_

#include <vector>

#include "kernels/bf16.h"
#include "kernels/experts.h"

namespace moe::model {

// H hidden, Q num_heads * head_dim, K num_kv_heads * head_dim, E num_experts, V vocab_size.
struct LayerWeights {
  const kernels::BFloat16* input_norm = nullptr;           // [H]
  const kernels::BFloat16* post_attention_norm = nullptr;  // [H]
  const kernels::BFloat16* q = nullptr;                    // [Q, H]
  const kernels::BFloat16* k = nullptr;                    // [K, H]
  const kernels::BFloat16* v = nullptr;                    // [K, H]
  const kernels::BFloat16* o = nullptr;                    // [H, Q]
  const kernels::BFloat16* q_norm = nullptr;               // [Q]
  const kernels::BFloat16* k_norm = nullptr;               // [K]
  const kernels::BFloat16* gate = nullptr;                 // [E, H], the router
  // [E], by expert id. Where weights come from a source that holds only a rank's own experts, the
  // others are null; a Checkpoint maps whole files, so there all are set.
  std::vector<kernels::ExpertWeights> experts;
};

struct ModelWeights {
  const kernels::BFloat16* embed = nullptr;       // [V, H]
  const kernels::BFloat16* final_norm = nullptr;  // [H]
  const kernels::BFloat16* lm_head = nullptr;     // [V, H]; equal to embed if tied
  std::vector<LayerWeights> layers;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_WEIGHTS_H_
