// What config.json and generation_config.json say about a model, checked.
//
// Both files come with the model and are not trusted: their size and depth are bounded, every
// number is range-checked in 64 bits before it becomes an int, and what the engine does not
// implement is refused by name. Pure: no file is read here.
//
// Tested by tests/worker/model/config_test.cc and tests/fuzz/config_fuzz.cc.
#ifndef MOE_WORKER_MODEL_CONFIG_H_
#define MOE_WORKER_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::model {

// Shape and constants of an OLMoE model. After ParseModelConfig every field holds:
//   num_heads * head_dim == hidden, head_dim even, num_kv_heads divides num_heads,
//   1 <= top_k <= num_experts, and all products of two sizes fit an int64.
struct ModelConfig {
  int hidden = 0;         // hidden_size
  int intermediate = 0;   // intermediate_size, of one expert
  int num_layers = 0;     // num_hidden_layers
  int num_heads = 0;      // num_attention_heads, of queries
  int num_kv_heads = 0;   // num_key_value_heads; num_heads when the file has none
  int head_dim = 0;       // hidden / num_heads
  int num_experts = 0;    // of each layer
  int top_k = 0;          // num_experts_per_tok
  int vocab_size = 0;     // rows of the embedding; may exceed the tokenizer's vocabulary
  int max_positions = 0;  // max_position_embeddings
  float rms_norm_epsilon = 1e-5F;
  double rope_theta = 10000.0;
  std::optional<float> clip_qkv;     // q, k and v are clipped to [-clip_qkv, clip_qkv]
  bool norm_topk_prob = false;       // whether the top-k router weights are scaled to sum to 1
  bool tie_word_embeddings = false;  // whether lm_head is the embedding
  // Ids that end a sequence; generation_config.json's if it names any, as in transformers. May be
  // empty.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> pad_token_id;
  std::string dtype;  // torch_dtype or dtype, e.g. "bfloat16"; empty if absent. The tensors decide.
  // Oddities that do not prevent use, one sentence each, such as an eos id outside the vocabulary.
  std::vector<std::string> warnings;
};

// Parses config.json (the forms of transformers 4 and 5) and, if not empty, generation_config.json.
// InvalidArgument names the field, its value and what is allowed; Unimplemented names a feature of
// another architecture or of rope scaling that this engine does not have.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_config_json = "");

// One line: "olmoe: 16 layers, hidden 2048, 16 heads (16 kv) of 128, 64 experts of 1024, top-8,
// ...".
std::string Describe(const ModelConfig& config);

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_CONFIG_H_
