// A temporary folder per test, and the weights of a checkpoint as bytes.
#ifndef MOE_TESTS_WORKER_MODEL_MODEL_DIR_TEST_H_
#define MOE_TESTS_WORKER_MODEL_MODEL_DIR_TEST_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/model/checkpoint.h"

namespace moe::model {

class ModelDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::path(::testing::TempDir()) /
            absl::StrCat("moe_", test->test_suite_name(), "_", test->name(), "_", getpid());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // Of a folder below the test's own.
  std::string Dir(const std::string& name = "model") const { return (root_ / name).string(); }

 private:
  std::filesystem::path root_;
};

// Every matrix of a model by a name of its own, whatever the layout it was stored in.
inline std::map<std::string, std::string> AllWeights(const Checkpoint& checkpoint) {
  const ModelConfig& c = checkpoint.config();
  const ModelWeights& w = checkpoint.weights();
  std::map<std::string, std::string> out;
  const auto add = [&](const std::string& name, const kernels::BFloat16* data, int64_t count) {
    out[name].assign(reinterpret_cast<const char*>(data), static_cast<size_t>(count) * 2);
  };
  const int64_t h = c.hidden;
  const int64_t q = int64_t{c.num_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  add("embed", w.embed, c.vocab_size * h);
  add("final_norm", w.final_norm, h);
  add("lm_head", w.lm_head, c.vocab_size * h);
  for (int l = 0; l < c.num_layers; ++l) {
    const LayerWeights& layer = w.layers[static_cast<size_t>(l)];
    const std::string p = absl::StrCat(l, ".");
    add(p + "input_norm", layer.input_norm, h);
    add(p + "post_attention_norm", layer.post_attention_norm, h);
    add(p + "q", layer.q, q * h);
    add(p + "k", layer.k, kv * h);
    add(p + "v", layer.v, kv * h);
    add(p + "o", layer.o, q * h);
    add(p + "q_norm", layer.q_norm, q);
    add(p + "k_norm", layer.k_norm, kv);
    add(p + "gate", layer.gate, c.num_experts * h);
    for (int e = 0; e < c.num_experts; ++e) {
      const kernels::ExpertWeights& expert = layer.experts[static_cast<size_t>(e)];
      add(absl::StrCat(p, e, ".gate"), expert.gate, c.intermediate * h);
      add(absl::StrCat(p, e, ".up"), expert.up, c.intermediate * h);
      add(absl::StrCat(p, e, ".down"), expert.down, c.intermediate * h);
    }
  }
  return out;
}

}  // namespace moe::model

#endif  // MOE_TESTS_WORKER_MODEL_MODEL_DIR_TEST_H_
