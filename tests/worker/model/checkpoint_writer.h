// Writes OLMoE checkpoints with random weights, of any shape and in every published form, for
// tests. Link `moe_test_checkpoint`.
#ifndef MOE_TESTS_WORKER_MODEL_CHECKPOINT_WRITER_H_
#define MOE_TESTS_WORKER_MODEL_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/config.h"
#include "worker/model/safetensors.h"

namespace moe::model {

struct WriteOptions {
  DType dtype = DType::kBF16;  // kBF16, kF16 or kF32, of every tensor
  bool fused_experts =
      false;           // mlp.experts.gate_up_proj and down_proj, as transformers 5 holds them
  int num_shards = 1;  // above 1: an index and shards
  bool transformers5 = false;  // config.json with dtype and rope_parameters
  // Standard deviation of the weights; norms are 1 + noise of it. Values are first rounded to bf16,
  // so the same seed gives the same model in each dtype (fp16: up to its smaller range) and layout.
  float init_std = 0.05F;
};

// A small model: 2 layers, hidden 32, 4 heads (2 kv), 8 experts of 24, top-2, vocabulary 100.
ModelConfig TinyConfig();

// Creates `dir` and writes config.json and safetensors files. The embedding is tied if
// `config.tie_word_embeddings`; then no lm_head is stored. Same arguments, same bytes.
// Needs the memory of the largest tensor, so that full-size models can be written.
absl::Status WriteRandomCheckpoint(const std::string& dir, const ModelConfig& config, uint64_t seed,
                                   const WriteOptions& options = {});

// One safetensors file. `data` is the data section.
absl::Status WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                              const std::string& data);

// A tensor and the bytes it is written with.
struct TensorBytes {
  NamedTensor tensor;
  std::string data;
};

// The tensors that WriteRandomCheckpoint writes, for tests that change one.
std::vector<TensorBytes> RandomTensors(const ModelConfig& config, uint64_t seed,
                                       const WriteOptions& options = {});
absl::Status WriteSafetensors(const std::string& path, const std::vector<TensorBytes>& tensors);

// Overwrites or creates a file.
absl::Status WriteFile(const std::string& path, const std::string& content);

// config.json as WriteRandomCheckpoint writes it.
std::string ConfigJson(const ModelConfig& config, const WriteOptions& options = {});

}  // namespace moe::model

#endif  // MOE_TESTS_WORKER_MODEL_CHECKPOINT_WRITER_H_
