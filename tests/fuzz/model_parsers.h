// What must hold for any input to the parsers of model files. Shared by the fuzzers and by
// tests/worker/model/parser_mutation_test.cc, which runs them where libFuzzer is not at hand.
#ifndef MOE_TESTS_FUZZ_MODEL_PARSERS_H_
#define MOE_TESTS_FUZZ_MODEL_PARSERS_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "worker/model/config.h"
#include "worker/model/safetensors.h"

namespace moe::model {

inline void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

// `input` is config.json, and behind a line "---" generation_config.json. Returns whether it
// parsed.
inline bool CheckConfigInput(std::string_view input) {
  const size_t cut = input.find("\n---\n");
  const std::string_view generation =
      cut == std::string_view::npos ? std::string_view() : input.substr(cut + 5);
  const auto config = ParseModelConfig(input.substr(0, cut), generation);
  if (!config.ok()) {
    Require(!config.status().message().empty(), "an error has a message");
    Require(config.status().message().size() < 2000, "a message is short");
    return false;
  }
  Require(config->hidden > 0 && config->intermediate > 0, "sizes are positive");
  Require(config->num_layers > 0 && config->num_experts > 0, "counts are positive");
  Require(config->num_heads * config->head_dim == config->hidden, "heads make up hidden");
  Require(config->num_heads % config->num_kv_heads == 0, "kv heads divide heads");
  Require(config->head_dim % 2 == 0, "head_dim is even");
  Require(config->top_k >= 1 && config->top_k <= config->num_experts, "top_k <= experts");
  Require(config->rope_theta > 0 && config->rms_norm_epsilon >= 0, "constants are positive");
  for (const int32_t id : config->eos_token_ids) {
    Require(id >= 0 && id < config->vocab_size, "ids are in the vocabulary");
  }
  Require(!Describe(*config).empty(), "a config describes itself");
  return true;
}

// `input` is a whole file. Returns whether its header parsed.
inline bool CheckSafetensorsInput(std::string_view input) {
  const auto index = ParseSafetensorsHeader(input, input.size(), "input");
  if (!index.ok()) {
    Require(!index.status().message().empty(), "an error has a message");
    return false;
  }
  uint64_t sum = index->data_begin;
  for (const auto& [name, tensor] : index->tensors) {
    Require(tensor.begin >= index->data_begin, "a tensor is behind the header");
    Require(tensor.begin <= tensor.end && tensor.end <= input.size(), "a tensor is in the file");
    uint64_t bytes = static_cast<uint64_t>(DTypeBytes(tensor.dtype));
    for (const int64_t dimension : tensor.shape) bytes *= static_cast<uint64_t>(dimension);
    Require(bytes == tensor.end - tensor.begin, "a shape fits its range");
    sum += bytes;
  }
  Require(sum == input.size(), "tensors make up the file");
  return true;
}

}  // namespace moe::model

#endif  // MOE_TESTS_FUZZ_MODEL_PARSERS_H_
