// Tests of gateway/text/tokenizer.h: against the Python library's results, against itself, and on
// broken files.
#include "gateway/text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/text/temp_model.h"

namespace moe::text {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Ids = std::vector<int32_t>;

// The tokenizer of tests/data/text/NAME.json, with this tokenizer_config.json if it is not empty.
std::unique_ptr<Tokenizer> LoadData(const std::string& name, const std::string& config = "") {
  TempModel model;
  model.Write("tokenizer.json", ReadTestData(name + ".json"));
  if (!config.empty()) model.Write("tokenizer_config.json", config);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(model.dir());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

absl::Status LoadError(const std::string& tokenizer, const std::string& config = "") {
  TempModel model;
  if (!tokenizer.empty()) model.Write("tokenizer.json", tokenizer);
  if (!config.empty()) model.Write("tokenizer_config.json", config);
  const absl::Status status = Tokenizer::Load(model.dir()).status();
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr(model.dir())));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("/")));
  return status;
}

std::string Streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder stream(tokenizer, skip_special);
  std::string text;
  for (int32_t id : ids) text += stream.Append(id).value();
  return text + stream.Flush().value();
}

class GoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTest, EncodesAsThePythonLibrary) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const json golden = json::parse(ReadTestData(std::string(GetParam()) + "_golden.json"));
  for (const json& entry : golden.at("encode")) {
    const std::string text = entry.at("text");
    EXPECT_EQ(tokenizer->Encode(text, false, true).value(), entry.at("ids").get<Ids>()) << text;
    EXPECT_EQ(tokenizer->Encode(text, true, true).value(), entry.at("ids_with_special").get<Ids>())
        << text;
    // A guard at a place where nothing can be recognised makes the text go the other way.
    EXPECT_EQ(tokenizer->EncodeGuarded({text, {0, text.size()}}).value(),
              entry.at("ids").get<Ids>())
        << text;
  }
}

TEST_P(GoldenTest, DecodesAsThePythonLibraryWholeAndStreamed) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const json golden = json::parse(ReadTestData(std::string(GetParam()) + "_golden.json"));
  // A run of ByteFallback tokens that is not UTF-8 is shown otherwise on purpose (src/detok.rs).
  const bool byte_fallback = std::string(GetParam()) == "byte_fallback";
  for (const json& entry : golden.at("decode")) {
    const Ids ids = entry.at("ids");
    for (bool skip : {false, true}) {
      const std::string expected = entry.at(skip ? "text_without_special" : "text");
      const std::string text = tokenizer->Decode(ids, skip).value();
      EXPECT_EQ(Streamed(*tokenizer, ids, skip), text);
      if (byte_fallback && expected.find("\uFFFD") != std::string::npos) continue;
      EXPECT_EQ(text, expected);
    }
  }
}

TEST_P(GoldenTest, StreamedPiecesOfEncodedTextAreItsDecoding) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  const json golden = json::parse(ReadTestData(std::string(GetParam()) + "_golden.json"));
  Ids all;
  for (const json& entry : golden.at("encode")) {
    const Ids ids = entry.at("ids");
    all.insert(all.end(), ids.begin(), ids.end());
    EXPECT_EQ(Streamed(*tokenizer, ids, true), tokenizer->Decode(ids, true).value());
  }
  EXPECT_EQ(Streamed(*tokenizer, all, false), tokenizer->Decode(all, false).value());
}

TEST_P(GoldenTest, StreamedPiecesOfRandomIdsAreTheirDecoding) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  std::mt19937 random(64);
  // Ids beyond the vocabulary too: a model's may be larger.
  std::uniform_int_distribution<int32_t> id(0, tokenizer->vocab_size() + 5);
  for (int round = 0; round < 300; ++round) {
    Ids ids(random() % 40);
    for (int32_t& value : ids) value = id(random);
    for (bool skip : {false, true}) {
      EXPECT_EQ(Streamed(*tokenizer, ids, skip), tokenizer->Decode(ids, skip).value());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, GoldenTest,
                         ::testing::Values("byte_level", "byte_fallback", "word_piece"),
                         [](const auto& test) { return std::string(test.param); });

TEST(TokenizerTest, SpecialTokensAreTextWhenTheyAreNotParsed) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const std::string text = "a <|im_start|>user\nb<|im_end|>";
  const Ids parsed = tokenizer->Encode(text, false, true).value();
  const Ids plain = tokenizer->Encode(text, false, false).value();
  const auto is_special = [&](int32_t id) { return tokenizer->IsSpecial(id); };
  EXPECT_EQ(std::count_if(parsed.begin(), parsed.end(), is_special), 2);
  EXPECT_EQ(std::count_if(plain.begin(), plain.end(), is_special), 0);
  EXPECT_EQ(tokenizer->Decode(plain, true).value(), text);
}

TEST(TokenizerTest, GuardsRuleOutOneSpecialTokenAndKeepTheOthers) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const int32_t end = tokenizer->TokenId("<|im_end|>").value();
  const std::string text = "x<|im_end|><|im_end|>";
  EXPECT_EQ(tokenizer->EncodeGuarded({text, {}}).value().size(), 3u);
  const Ids ids = tokenizer->EncodeGuarded({text, {2}}).value();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 1);
  EXPECT_EQ(ids.back(), end);
  EXPECT_EQ(tokenizer->Decode(ids, false).value(), text);
}

TEST(TokenizerTest, TokenBytesJoinToTheText) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const std::string text = "naïve 日本語 😀 <|im_end|>   x\n";
  std::string joined;
  const Ids ids = tokenizer->Encode(text, false, true).value();
  for (int32_t id : ids) joined += tokenizer->TokenBytes(id).value();
  EXPECT_EQ(joined, text);
  const std::unique_ptr<Tokenizer> fallback = LoadData("byte_fallback");
  EXPECT_EQ(fallback->TokenBytes(fallback->TokenId("<0xE2>").value()).value(), "\xE2");
  EXPECT_EQ(fallback->TokenBytes(fallback->TokenId("▁hello").value()).value(), " hello");
  const std::unique_ptr<Tokenizer> words = LoadData("word_piece");
  EXPECT_EQ(words->TokenBytes(words->TokenId("##ing").value()).value(), "ing");
  EXPECT_EQ(words->TokenBytes(words->TokenId("expert").value()).value(), " expert");
}

TEST(TokenizerTest, IdsWithoutATokenAddNothingAndNegativeOnesAreRefused) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const int32_t beyond = tokenizer->vocab_size();
  EXPECT_EQ(tokenizer->Decode(Ids{beyond, INT32_MAX}, false).value(), "");
  EXPECT_EQ(tokenizer->TokenBytes(beyond).value(), "");
  EXPECT_FALSE(tokenizer->IsSpecial(beyond));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_TRUE(absl::IsInvalidArgument(tokenizer->Decode(Ids{-1}, false).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(tokenizer->TokenBytes(-1).status()));
  StreamDecoder stream(*tokenizer, false);
  EXPECT_TRUE(absl::IsInvalidArgument(stream.Append(-5).status()));
  EXPECT_EQ(stream.Append(beyond).value(), "");
}

TEST(TokenizerTest, TextThatIsNotUtf8IsRefused) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const absl::Status status = tokenizer->Encode("ab\xff", true, true).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 2"));
}

TEST(TokenizerTest, TheConfigurationNamesSpecialTokensAndWhatIsAdded) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level", R"({
    "bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "lstrip": false},
    "pad_token": "<missing>", "add_bos_token": true, "add_eos_token": true,
    "additional_special_tokens": ["e"], "chat_template": null})");
  const int32_t bos = tokenizer->TokenId("<|im_start|>").value();
  const int32_t eos = tokenizer->TokenId("<|im_end|>").value();
  EXPECT_EQ(tokenizer->bos_id(), bos);
  EXPECT_EQ(tokenizer->eos_id(), eos);
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(tokenizer->TokenId("e").value()));
  EXPECT_THAT(tokenizer->Encode("", true, true).value(), ElementsAre(bos, eos));
  EXPECT_TRUE(tokenizer->Encode("", false, true).value().empty());
  // As transformers: what the configuration says takes the place of the post-processor.
  const std::unique_ptr<Tokenizer> without = LoadData("word_piece", R"({"add_bos_token": false})");
  EXPECT_EQ(without->Encode("hello", true, true).value().size(), 1u);
  EXPECT_EQ(LoadData("word_piece")->Encode("hello", true, true).value().size(), 3u);
}

TEST(StreamDecoderTest, AnIncompleteCharacterIsHeldBack) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const Ids ids = tokenizer->Encode("😀", false, true).value();
  ASSERT_GT(ids.size(), 1u);
  StreamDecoder stream(*tokenizer, true);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(stream.Append(ids[i]).value(), "");
  StreamDecoder moved = std::move(stream);
  EXPECT_EQ(moved.Append(ids.back()).value(), "😀");
  EXPECT_EQ(moved.Append(ids.front()).value(), "");
  EXPECT_EQ(moved.Flush().value(), "\uFFFD");
  EXPECT_EQ(moved.Flush().value(), "");
}

TEST(StreamDecoderTest, ItMayOutliveItsTokenizer) {
  std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_fallback");
  const int32_t hello = tokenizer->TokenId("▁hello").value();
  StreamDecoder stream(*tokenizer, true);
  tokenizer.reset();
  EXPECT_EQ(stream.Append(hello).value(), "hello");
  EXPECT_EQ(stream.Append(hello).value(), " hello");
}

TEST(TokenizerTest, ManyThreadsGetTheSameTokens) {
  const std::unique_ptr<Tokenizer> tokenizer = LoadData("byte_level");
  const std::string text = "A mixture of experts routes every token to a few experts. 日本語 ";
  const Ids expected = tokenizer->Encode(text, false, true).value();
  std::atomic<int> num_wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        if (tokenizer->Encode(text, false, true).value() != expected) ++num_wrong;
        if (Streamed(*tokenizer, expected, true) != text) ++num_wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST(TokenizerFileTest, AMissingOrOddFileIsNamed) {
  EXPECT_TRUE(absl::IsNotFound(LoadError("")));
  TempModel model;
  std::filesystem::create_directory(model.dir() + "/tokenizer.json");
  EXPECT_THAT(std::string(Tokenizer::Load(model.dir()).status().message()),
              HasSubstr("tokenizer.json: not a regular file"));
  TempModel large;
  large.Write("tokenizer.json", "");
  std::filesystem::resize_file(large.dir() + "/tokenizer.json", Tokenizer::kMaxFileBytes + 1);
  EXPECT_THAT(std::string(Tokenizer::Load(large.dir()).status().message()),
              HasSubstr("at most 268435456 are read"));
}

TEST(TokenizerFileTest, ALinkThatLeavesTheFolderIsRefused) {
  const TempModel elsewhere, model;
  elsewhere.Write("tokenizer.json", ReadTestData("byte_level.json"));
  std::filesystem::create_symlink(elsewhere.dir() + "/tokenizer.json",
                                  model.dir() + "/tokenizer.json");
  const absl::Status status = Tokenizer::Load(model.dir()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("tokenizer.json: a link to a file outside the model folder"),
                    Not(HasSubstr(model.dir())), Not(HasSubstr(elsewhere.dir()))));
}

TEST(TokenizerFileTest, BrokenFilesAreRefusedWithAReason) {
  const json good = json::parse(ReadTestData("byte_level.json"));
  struct Case {
    std::string what;
    std::string content;
    std::string message;
  };
  std::vector<Case> cases = {
      {"no JSON", "tokenizer", "line 1"},
      {"a list", "[]", "tokenizer.json: "},
      {"no model", "{}", "Model missing"},
      {"no UTF-8", "{\"\xff\": 1}", "line 1"},
      {"nested lists", std::string(100'000, '['), "recursion limit"},
      {"nested decoders",
       [] {
         std::string text = R"({"decoder":)";
         for (int i = 0; i < 5000; ++i) text += R"({"type":"Sequence","decoders":[)";
         return text;
       }(),
       "recursion limit"},
  };
  const auto changed = [&](const std::string& what, const std::string& pointer, json value,
                           const std::string& message) {
    json bad = good;
    bad[json::json_pointer(pointer)] = std::move(value);
    cases.push_back({what, bad.dump(), message});
  };
  changed("a merge of three", "/model/merges/0", "a b c", "tokenizer.json: ");
  changed("a merge without a token", "/model/merges/0", json::array({"zz", "yy"}), "zz");
  changed("merges of a wrong type", "/model/merges", 7, "tokenizer.json: ");
  // The library cuts the right half of a merge by this length, and panics.
  changed("a prefix longer than a token", "/model/continuing_subword_prefix", "########",
          "tokenizer.json: ");
  changed("a negative id", "/model/vocab/a", -1, "tokenizer.json: ");
  changed("an id beyond 31 bits", "/model/vocab/a", 4294967295u, "tokenizer.json: ");
  changed("a vocabulary of a wrong type", "/model/vocab", json::array(), "tokenizer.json: ");
  changed("an unknown model", "/model/type", "Markov", "tokenizer.json: ");
  changed("an unknown version", "/version", "9.9", "version");
  changed("added tokens of a wrong type", "/added_tokens", "x", "tokenizer.json: ");
  changed("an unknown decoder", "/decoder/type", "Magic", "tokenizer.json: ");
  changed("a wrong expression", "/normalizer",
          {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}},
          "tokenizer.json: ");
  for (const Case& test : cases) {
    const absl::Status status = LoadError(test.content);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << test.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.message)) << test.what;
  }
}

TEST(TokenizerFileTest, DamagedFilesNeverEndTheProcess) {
  const std::string good = ReadTestData("byte_level.json");
  std::mt19937 random(47);
  int num_loaded = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bad = good;
    if (round % 4 == 0) {
      bad.resize(random() % bad.size());
    } else if (round % 4 == 1) {
      bad = std::string(random() % 200, '\0');
      for (char& c : bad) c = static_cast<char>(random());
    } else {
      // Few changes in the first part, where the structure is; all kinds of characters.
      const std::string characters = "\"{}[],:0123456789-ntf\\ #";
      for (unsigned i = 0; i <= random() % 4; ++i) {
        bad[random() % std::min<size_t>(bad.size(), 2500)] =
            characters[random() % characters.size()];
      }
    }
    TempModel model;
    model.Write("tokenizer.json", bad);
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(model.dir());
    if (!tokenizer.ok()) continue;
    ++num_loaded;
    const absl::StatusOr<Ids> ids = (*tokenizer)->Encode("A mixture <|im_end|> 日本", true, true);
    if (ids.ok()) {
      EXPECT_TRUE((*tokenizer)->Decode(*ids, false).ok());
    }
  }
  EXPECT_GT(num_loaded, 0);
}

TEST(TokenizerFileTest, AWrongConfigurationIsNamed) {
  const std::string good = ReadTestData("byte_level.json");
  struct Case {
    std::string config;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"{", "tokenizer_config.json: not valid JSON"},
      {"[1]", "tokenizer_config.json: not an object"},
      {std::string(100'000, '['), "tokenizer_config.json: nested too deeply"},
      {R"({"eos_token": 7})", "'eos_token' must be a text"},
      {R"({"eos_token": {"content": []}})", "'eos_token' must be a text"},
      {R"({"add_bos_token": "yes"})", "'add_bos_token' must be true or false"},
      {R"({"additional_special_tokens": 3})", "'additional_special_tokens' must be a list"},
      {R"({"added_tokens_decoder": [1]})", "'added_tokens_decoder' must be"},
      {R"({"auto_map": {"AutoTokenizer": ["a.B", null]}})", "'auto_map'"},
  };
  for (const Case& test : cases) {
    const absl::Status status = LoadError(good, test.config);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << test.config << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.message));
  }
}

TEST(DemoModelTest, ItsTokenizerReturnsEveryText) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load("models/demo");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->eos_id().has_value());
  const json golden = json::parse(ReadTestData("byte_level_golden.json"));
  for (const json& entry : golden.at("encode")) {
    const std::string text = entry.at("text");
    const Ids ids = (*tokenizer)->Encode(text, false, false).value();
    EXPECT_EQ(Streamed(**tokenizer, ids, false), (*tokenizer)->Decode(ids, false).value());
  }
}

}  // namespace
}  // namespace moe::text
