#include "planner/model_shape.h"

#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/published_models.h"

namespace moe::planner {
namespace {

using ::testing::HasSubstr;

TEST(ModelShapeTest, PublishedModelsHaveTheParametersThatTheirCardsSay) {
  struct Row {
    ModelShape shape;
    double total;   // in billions
    double active;  // for a token, embedding not counted
    double kv_bytes;
  };
  for (const Row& row :
       {Row{Olmoe1b7b(), 6.919, 1.178, 131072}, Row{Mixtral8x7b(), 46.7, 12.75, 131072},
        Row{Qwen3Moe30b(), 30.5, 3.04, 98304}, Row{DeepSeekV3(), 671.0, 36.6, 70272}}) {
    EXPECT_TRUE(CheckShape(row.shape).ok());
    EXPECT_NEAR(static_cast<double>(row.shape.total_params()) / 1e9, row.total, row.total * 0.003)
        << row.shape.name;
    EXPECT_NEAR(static_cast<double>(row.shape.active_params()) / 1e9, row.active,
                row.active * 0.005)
        << row.shape.name;
    EXPECT_EQ(row.shape.kv_bytes_per_token(), row.kv_bytes) << row.shape.name;
  }
}

TEST(ModelShapeTest, OneExpertOfOlmoeIs12Point58Megabytes) {
  EXPECT_EQ(Olmoe1b7b().expert_bytes(), 3.0 * 2048 * 1024 * 2);
}

TEST(ModelShapeTest, LatentAttentionMayProjectQueriesDirectly) {
  ModelShape shape{.hidden = 2048};
  SetLatentAttention(
      {.num_heads = 16, .kv_lora_rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128},
      &shape);
  // q 2048 x 3072, kv_a 2048 x 576, kv_b 512 x 4096, o 2048 x 2048: DeepSeek-V2-Lite.
  EXPECT_EQ(shape.attention_params, 2048 * 3072 + 2048 * 576 + 512 * 4096 + 2048 * 2048);
  EXPECT_EQ(shape.kv_values_per_token, 576);
  EXPECT_EQ(shape.attention_flops_per_kv, 2.0 * 16 * (576 + 512));
}

TEST(ModelShapeTest, TiedEmbeddingsAreCountedOnce) {
  ModelShape shape = Olmoe1b7b();
  const int64_t untied = shape.total_params();
  shape.tied_embeddings = true;
  EXPECT_EQ(untied - shape.total_params(), int64_t{50304} * 2048);
}

TEST(ModelShapeTest, ASizeThatMakesNoSenseIsNamed) {
  struct Row {
    std::function<void(ModelShape*)> change;
    const char* message;
  };
  for (const Row& row :
       {Row{[](ModelShape* s) { s->hidden = 0; }, "hidden size is 0"},
        Row{[](ModelShape* s) { s->top_k = 65; }, "experts per token is 65"},
        Row{[](ModelShape* s) { s->num_dense_layers = 16; }, "dense layers is 16"},
        Row{[](ModelShape* s) { s->num_dense_layers = 1; }, "dense intermediate size is 0"},
        Row{[](ModelShape* s) { s->num_kv_heads = 17; }, "KV heads is 17"},
        Row{[](ModelShape* s) { s->num_experts = 5000; }, "must be from 1 to 4096"}}) {
    ModelShape shape = Olmoe1b7b();
    row.change(&shape);
    EXPECT_THAT(std::string(CheckShape(shape).message()), HasSubstr(row.message));
  }
}

}  // namespace
}  // namespace moe::planner
