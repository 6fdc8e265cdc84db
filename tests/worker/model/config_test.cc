#include "worker/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/worker/model/checkpoint_writer.h"

namespace moe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Json = nlohmann::json;

// TinyConfig's file with a JSON merge patch applied; null removes a field.
std::string Patched(const std::string& patch, const WriteOptions& options = {}) {
  Json json = Json::parse(ConfigJson(TinyConfig(), options));
  json.merge_patch(Json::parse(patch));
  return json.dump();
}

// TinyConfig's file with one field replaced as given, null included.
std::string WithField(const std::string& field, const std::string& value) {
  Json json = Json::parse(ConfigJson(TinyConfig()));
  json[field] = Json::parse(value);
  return json.dump();
}

TEST(ConfigTest, ReadsEveryFieldOfBothTransformersForms) {
  ModelConfig config = TinyConfig();
  config.rms_norm_epsilon = 1e-6F;
  config.rope_theta = 50000;
  config.clip_qkv = 8.5F;
  config.norm_topk_prob = true;
  config.tie_word_embeddings = true;
  config.eos_token_ids = {1, 7};
  config.bos_token_id = 2;
  config.pad_token_id = 0;
  for (const bool transformers5 : {false, true}) {
    WriteOptions options;
    options.transformers5 = transformers5;
    auto read = ParseModelConfig(ConfigJson(config, options));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->hidden, 32);
    EXPECT_EQ(read->intermediate, 24);
    EXPECT_EQ(read->num_layers, 2);
    EXPECT_EQ(read->num_heads, 4);
    EXPECT_EQ(read->num_kv_heads, 2);
    EXPECT_EQ(read->head_dim, 8);
    EXPECT_EQ(read->num_experts, 8);
    EXPECT_EQ(read->top_k, 2);
    EXPECT_EQ(read->vocab_size, 100);
    EXPECT_EQ(read->max_positions, 256);
    EXPECT_EQ(read->rms_norm_epsilon, 1e-6F);
    EXPECT_EQ(read->rope_theta, 50000);
    EXPECT_EQ(read->clip_qkv, 8.5F);
    EXPECT_TRUE(read->norm_topk_prob);
    EXPECT_TRUE(read->tie_word_embeddings);
    EXPECT_THAT(read->eos_token_ids, ElementsAre(1, 7));
    EXPECT_EQ(read->bos_token_id, 2);
    EXPECT_EQ(read->pad_token_id, 0);
    EXPECT_EQ(read->dtype, "bfloat16");
    EXPECT_THAT(read->warnings, IsEmpty());
  }
}

TEST(ConfigTest, AbsentFieldsGetTransformersDefaults) {
  auto config = ParseModelConfig(Patched(
      R"({"num_key_value_heads": null, "rope_theta": null, "rms_norm_eps": null,
          "norm_topk_prob": null, "tie_word_embeddings": null, "max_position_embeddings": null,
          "eos_token_id": null, "torch_dtype": null, "hidden_act": null, "attention_bias": null})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_kv_heads, config->num_heads);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_EQ(config->rms_norm_epsilon, 1e-5F);
  EXPECT_FALSE(config->norm_topk_prob);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->max_positions, 4096);
  EXPECT_THAT(config->eos_token_ids, IsEmpty());
  EXPECT_EQ(config->dtype, "");
}

TEST(ConfigTest, EndTokensOfGenerationConfigGoFirst) {
  auto config = ParseModelConfig(ConfigJson(TinyConfig()), R"({"eos_token_id": [3, 4]})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(3, 4));
  config = ParseModelConfig(ConfigJson(TinyConfig()), R"({"eos_token_id": null})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1));
}

TEST(ConfigTest, TokenIdsOutsideTheVocabularyAreDroppedWithAWarning) {
  auto config = ParseModelConfig(
      Patched(R"({"eos_token_id": [5, 50279, -3], "pad_token_id": 100, "bos_token_id": -1})"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(5));
  EXPECT_FALSE(config->pad_token_id.has_value());
  EXPECT_FALSE(config->bos_token_id.has_value());
  ASSERT_THAT(config->warnings, SizeIs(3));
  EXPECT_THAT(config->warnings[0], HasSubstr("eos_token_id 50279 is outside the vocabulary"));
}

TEST(ConfigTest, RefusesValuesOutOfRangeNamingFieldValueAndWhatIsAllowed) {
  struct Case {
    const char* sentence;
    const char* patch;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"hidden size is zero", R"({"hidden_size": 0})",
       "config.json: hidden_size is 0; it must be an integer from 1 to 1048576"},
      {"intermediate size is zero", R"({"intermediate_size": 0})", "intermediate_size is 0"},
      {"no layers", R"({"num_hidden_layers": 0})", "num_hidden_layers is 0"},
      {"no heads", R"({"num_attention_heads": 0})", "num_attention_heads is 0"},
      {"no kv heads", R"({"num_key_value_heads": 0})", "num_key_value_heads is 0"},
      {"no experts", R"({"num_experts": 0})", "num_experts is 0"},
      {"2^31 experts", R"({"num_experts": 2147483648})",
       "num_experts is 2147483648; it must be an integer from 1 to 4096"},
      {"2^32 + 8 experts, which 32 bits would take for 8", R"({"num_experts": 4294967304})",
       "num_experts is 4294967304"},
      {"2^64 - 1 experts", R"({"num_experts": 18446744073709551615})", "num_experts is 184467440"},
      {"2^63 experts", R"({"num_experts": 9223372036854775808})", "num_experts is 92233720368547"},
      {"a negative number of experts", R"({"num_experts": -8})", "num_experts is -8"},
      {"a fraction", R"({"num_experts": 8.0})", "num_experts is 8.0; it must be an integer"},
      {"a string for a number", R"({"num_experts": "8"})", "num_experts is \"8\""},
      {"a list for a number", R"({"num_experts": [8]})", "num_experts is an array"},
      {"true for a number", R"({"num_experts": true})", "num_experts is true"},
      {"experts missing", R"({"num_experts": null})", "num_experts is missing"},
      {"top_k is zero", R"({"num_experts_per_tok": 0})", "num_experts_per_tok is 0"},
      {"top_k above the number of experts", R"({"num_experts_per_tok": 9})",
       "num_experts_per_tok is 9; it must be at most num_experts, which is 8"},
      {"layers times experts beyond all memory",
       R"({"num_experts": 4096, "num_hidden_layers": 1024})", "1024 * 4096; the product must be"},
      {"vocabulary is zero", R"({"vocab_size": 0})", "vocab_size is 0"},
      {"positions are negative", R"({"max_position_embeddings": -1})",
       "max_position_embeddings is -1"},
      {"heads do not divide the hidden size", R"({"num_attention_heads": 5})",
       "hidden_size is 32; it must be a multiple of num_attention_heads, which is 5"},
      {"kv heads do not divide heads", R"({"num_key_value_heads": 3})",
       "num_key_value_heads is 3; it must divide num_attention_heads, which is 4"},
      {"more kv heads than heads", R"({"num_key_value_heads": 8})", "num_key_value_heads is 8"},
      {"head_dim is odd", R"({"hidden_size": 36})", "is 9; it must be even"},
      {"head_dim contradicts hidden size", R"({"head_dim": 16})", "head_dim is 16; it must be"},
      {"epsilon is zero", R"({"rms_norm_eps": 0})", "rms_norm_eps is 0"},
      {"epsilon is negative", R"({"rms_norm_eps": -1e-5})", "rms_norm_eps is -1e-05"},
      {"theta is zero", R"({"rope_theta": 0})", "rope_theta is 0"},
      {"theta is a string", R"({"rope_theta": "1e4"})", "rope_theta is \"1e4\""},
      {"clip_qkv is zero", R"({"clip_qkv": 0})", "clip_qkv is 0"},
      {"clip_qkv is beyond float", R"({"clip_qkv": 1e300})", "clip_qkv is 1e+300"},
      {"norm_topk_prob is a number", R"({"norm_topk_prob": 1})",
       "norm_topk_prob is 1; it must be true or false"},
      {"eos is a string", R"({"eos_token_id": "</s>"})", "eos_token_id is \"</s>\""},
      {"eos is a list of strings", R"({"eos_token_id": ["a"]})", "eos_token_id is \"a\""},
      {"pad is a list", R"({"pad_token_id": [1]})", "pad_token_id is an array"},
      {"dtype is a number", R"({"torch_dtype": 16})", "torch_dtype is 16"},
      {"rope_parameters is a number", R"({"rope_parameters": 4})", "rope_parameters is 4"},
      {"nested theta is negative", R"({"rope_parameters": {"rope_theta": -1}})",
       "rope_theta is -1"},
      {"architectures is a string", R"({"architectures": "OlmoeForCausalLM"})",
       "architectures is \"OlmoeForCausalLM\""},
      {"no architecture at all", R"({"architectures": null, "model_type": null})",
       "model_type and architectures are missing"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const auto config = ParseModelConfig(Patched(c.patch));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(c.message));
  }
}

TEST(ConfigTest, RefusesWhatTheEngineDoesNotImplementByName) {
  struct Case {
    const char* sentence;
    const char* patch;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"another model type", R"({"model_type": "mixtral"})",
       "model_type is \"mixtral\", which is not supported; the supported model is OLMoE"},
      {"another architecture", R"({"architectures": ["MixtralForCausalLM"]})",
       "architectures[0] is \"MixtralForCausalLM\""},
      {"code of its own", R"({"auto_map": {"AutoConfig": "evil.Config"}})",
       "auto_map is set: the model brings its own Python code, which is never run"},
      {"another activation", R"({"hidden_act": "gelu"})", "hidden_act is \"gelu\""},
      {"attention biases", R"({"attention_bias": true})", "attention_bias is true"},
      {"rope scaling, transformers 4", R"({"rope_scaling": {"type": "linear", "factor": 2.0}})",
       "rope_scaling.rope_type is \"linear\""},
      {"rope scaling without a type", R"({"rope_scaling": {"factor": 2.0}})",
       "rope_scaling is an object"},
      {"rope scaling, transformers 5",
       R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}})",
       "rope_parameters."},
      {"rope per kind of layer", R"({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})",
       "rope_parameters.full_attention"},
      {"partial rotation", R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor is 0.5"},
      {"quantised weights", R"({"quantization_config": {"bits": 4}})", "quantization_config"},
      {"a sliding window", R"({"sliding_window": 4096})", "sliding_window is 4096"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const auto config = ParseModelConfig(Patched(c.patch));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << config.status();
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(c.message));
  }
}

TEST(ConfigTest, NullMeansAbsent) {
  for (const char* field :
       {"auto_map", "rope_scaling", "rope_parameters", "clip_qkv", "quantization_config"}) {
    SCOPED_TRACE(field);
    EXPECT_TRUE(ParseModelConfig(WithField(field, "null")).ok());
  }
}

TEST(ConfigTest, RefusesMalformedJson) {
  const std::string good = ConfigJson(TinyConfig());
  struct Case {
    const char* sentence;
    std::string text;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"empty", "", "not valid JSON"},
      {"not an object", "[1, 2]", "not a JSON object"},
      {"cut", good.substr(0, good.size() / 2), "not valid JSON"},
      {"trailing text", good + "x", "not valid JSON"},
      {"a NUL byte, behind which the parser would not look", good + std::string("\0{", 2),
       "NUL byte"},
      {"not UTF-8", "{\"a\xff\": 1}", "not valid JSON"},
      {"a lone surrogate", R"({"a": "\ud800"})", "not valid JSON"},
      {"a number beyond double", R"({"rope_theta": 1e999})", "not valid JSON"},
      {"NaN", R"({"rope_theta": NaN})", "not valid JSON"},
      {"a duplicate key", "{\"num_experts\": 8, \"num_experts\": 4}",
       "the key \"num_experts\" appears twice"},
      {"a duplicate key below", R"({"a": {"b": 1, "b": 2}})", "the key \"b\" appears twice"},
      {"65 levels", std::string(65, '[') + std::string(65, ']'), "deeper than 64 levels"},
      {"100,000 open brackets", std::string(100000, '['), "deeper than 64 levels"},
      {"100,000 open objects",
       [] {
         std::string text;
         for (int i = 0; i < 100000; ++i) text += "{\"a\":";
         return text;
       }(),
       "deeper than 64 levels"},
      {"17 MiB", std::string(size_t{17} << 20, ' '), "at most 16777216 are read"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    for (const bool generation : {false, true}) {
      if (generation && c.text.empty()) continue;  // means: no such file
      const auto config = generation ? ParseModelConfig(good, c.text) : ParseModelConfig(c.text);
      EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(config.status().message()), HasSubstr(c.message));
      EXPECT_THAT(std::string(config.status().message()),
                  HasSubstr(generation ? "generation_config.json" : "config.json"));
    }
  }
}

TEST(ConfigTest, LongAndControlCharactersAreNotEchoed) {
  const auto config =
      ParseModelConfig(Patched(Json{{"model_type", "\x1b[31m" + std::string(10000, 'x')}}.dump()));
  EXPECT_LT(config.status().message().size(), 400U);
  EXPECT_EQ(config.status().message().find('\x1b'), absl::string_view::npos);
}

TEST(ConfigTest, DescribesItselfInOneLine) {
  const std::string text = Describe(TinyConfig());
  EXPECT_THAT(text, HasSubstr("olmoe: 2 layers, hidden 32, 4 heads (2 kv) of 8, 8 experts of 24, "
                              "top-2, vocabulary 100"));
  EXPECT_EQ(text.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace moe::model
