#include "cli/plan/model_config.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/published_models.h"

namespace moe::cli {
namespace {

using Json = nlohmann::json;
using planner::ModelShape;
using ::testing::HasSubstr;

// The sizes of each model's own config.json.
Json Olmoe() {
  return {{"architectures", {"OlmoeForCausalLM"}},
          {"model_type", "olmoe"},
          {"hidden_size", 2048},
          {"intermediate_size", 1024},
          {"num_hidden_layers", 16},
          {"num_attention_heads", 16},
          {"num_key_value_heads", 16},
          {"num_experts", 64},
          {"num_experts_per_tok", 8},
          {"vocab_size", 50304},
          {"max_position_embeddings", 4096}};
}
Json Mixtral() {
  return {{"model_type", "mixtral"},      {"hidden_size", 4096},
          {"intermediate_size", 14336},   {"num_hidden_layers", 32},
          {"num_attention_heads", 32},    {"num_key_value_heads", 8},
          {"num_local_experts", 8},       {"num_experts_per_tok", 2},
          {"vocab_size", 32000},          {"max_position_embeddings", 32768},
          {"tie_word_embeddings", false}, {"sliding_window", nullptr}};
}
Json Qwen3() {
  return {{"model_type", "qwen3_moe"}, {"hidden_size", 2048},
          {"intermediate_size", 6144}, {"moe_intermediate_size", 768},
          {"num_hidden_layers", 48},   {"num_attention_heads", 32},
          {"num_key_value_heads", 4},  {"head_dim", 128},
          {"num_experts", 128},        {"num_experts_per_tok", 8},
          {"vocab_size", 151936},      {"max_position_embeddings", 40960},
          {"decoder_sparse_step", 1},  {"mlp_only_layers", Json::array()}};
}
Json DeepSeek() {
  return {{"model_type", "deepseek_v3"}, {"hidden_size", 7168},
          {"intermediate_size", 18432},  {"moe_intermediate_size", 2048},
          {"num_hidden_layers", 61},     {"first_k_dense_replace", 3},
          {"num_attention_heads", 128},  {"num_key_value_heads", 128},
          {"n_routed_experts", 256},     {"n_shared_experts", 1},
          {"num_experts_per_tok", 8},    {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},         {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},      {"v_head_dim", 128},
          {"vocab_size", 129280},        {"max_position_embeddings", 163840},
          {"moe_layer_freq", 1},         {"quantization_config", {{"quant_method", "fp8"}}}};
}

TEST(ModelConfigTest, ConfigsOfPublishedModelsGiveTheirShapes) {
  struct Row {
    Json config;
    ModelShape expected;
  };
  for (const Row& row :
       {Row{Olmoe(), planner::Olmoe1b7b()}, Row{Mixtral(), planner::Mixtral8x7b()},
        Row{Qwen3(), planner::Qwen3Moe30b()}, Row{DeepSeek(), planner::DeepSeekV3()}}) {
    const auto shape = ParseModelShape(row.config.dump(), "some-name");
    ASSERT_TRUE(shape.ok()) << shape.status();
    const ModelShape& e = row.expected;
    EXPECT_EQ(shape->name, "some-name");
    EXPECT_EQ(shape->total_params(), e.total_params()) << e.name;
    EXPECT_EQ(shape->active_params(), e.active_params()) << e.name;
    EXPECT_EQ(shape->total_bytes(), e.total_bytes()) << e.name;
    EXPECT_EQ(shape->kv_bytes_per_token(), e.kv_bytes_per_token()) << e.name;
    EXPECT_EQ(shape->attention_flops_per_kv, e.attention_flops_per_kv) << e.name;
    EXPECT_EQ(shape->num_kv_heads, e.num_kv_heads) << e.name;
    EXPECT_EQ(shape->bytes_per_dispatched, e.bytes_per_dispatched) << e.name;
    EXPECT_EQ(shape->max_positions, e.max_positions) << e.name;
  }
}

TEST(ModelConfigTest, WhatCannotBePlannedForIsRefusedByName) {
  struct Row {
    Json config;
    const char* field;
    Json value;
    const char* message;
  };
  for (const Row& row :
       {Row{Olmoe(), "model_type", "llama", "model_type is \"llama\"; known are olmoe, mixtral"},
        Row{Olmoe(), "num_experts_per_tok", 65, "num_experts_per_tok"},
        Row{Olmoe(), "hidden_size", "big", "hidden_size"},
        Row{Mixtral(), "num_local_experts", nullptr, "num_local_experts"},
        Row{Mixtral(), "num_local_experts", -1, "num_local_experts is -1"},
        Row{Mixtral(), "num_local_experts", 18446744073709551615ULL, "num_local_experts is 1844"},
        Row{Mixtral(), "num_attention_heads", 0, "number of heads is 0"},
        Row{Mixtral(), "num_experts_per_tok", 9, "experts per token is 9"},
        Row{Mixtral(), "quantization_config", {{"quant_method", "awq"}}, "quant_method is \"awq\""},
        Row{Mixtral(), "quantization_config", 8, "quant_method is \"\""},
        Row{Qwen3(), "decoder_sparse_step", 2, "decoder_sparse_step is 2"},
        Row{Qwen3(), "mlp_only_layers", {0, 1}, "mlp_only_layers is set"},
        Row{DeepSeek(), "kv_lora_rank", 0, "kv_lora_rank is 0"},
        Row{DeepSeek(), "first_k_dense_replace", 61, "dense layers is 61"}}) {
    Json config = row.config;
    config[row.field] = row.value;
    const auto shape = ParseModelShape(config.dump(), "x");
    ASSERT_FALSE(shape.ok()) << row.field << " " << row.value.dump();
    EXPECT_THAT(std::string(shape.status().message()), HasSubstr(row.message));
  }
  EXPECT_FALSE(ParseModelShape("", "x").ok());
  EXPECT_FALSE(ParseModelShape("[]", "x").ok());
  EXPECT_FALSE(ParseModelShape("{}", "x").ok());
}

TEST(ModelConfigTest, SizesBeyondAnyModelAreRefusedAndOverflowNothing) {
  constexpr int kLargest = 1 << 24;
  for (const char* field : {"hidden_size", "moe_intermediate_size", "n_shared_experts",
                            "num_attention_heads", "kv_lora_rank"}) {
    Json config = DeepSeek();
    config[field] = kLargest;
    EXPECT_FALSE(ParseModelShape(config.dump(), "m").ok()) << field;
  }
  Json all = Qwen3();
  for (const char* field : {"hidden_size", "moe_intermediate_size"}) all[field] = 1 << 20;
  for (const char* field : {"num_experts", "num_hidden_layers"}) all[field] = 4096;
  EXPECT_THAT(std::string(ParseModelShape(all.dump(), "m").status().message()),
              HasSubstr("the model's sizes make"));
  all["num_attention_heads"] = all["head_dim"] = all["hidden_size"] = kLargest;
  EXPECT_FALSE(ParseModelShape(all.dump(), "m").ok());
}

TEST(ModelConfigTest, AMessageIsShortWhateverTheFileHolds) {
  Json config = Qwen3();
  config["hidden_size"] = Json(std::vector<int>(100000, 1));
  EXPECT_LT(ParseModelShape(config.dump(), "m").status().message().size(), 400);
  config = Qwen3();
  config["decoder_sparse_step"] = std::string(100000, 'x');
  EXPECT_LT(ParseModelShape(config.dump(), "m").status().message().size(), 400);
}

}  // namespace
}  // namespace moe::cli
