#include "tests/gateway/testing/tiny_model.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "nlohmann/json.hpp"

namespace moe::gateway::testing {
namespace {

using Json = nlohmann::ordered_json;

void Append(std::string* text, unsigned code_point) {
  if (code_point < 0x80) {
    *text += static_cast<char>(code_point);
  } else {
    *text += static_cast<char>(0xC0U | (code_point >> 6U));
    *text += static_cast<char>(0x80U | (code_point & 0x3FU));
  }
}

// GPT-2's mapping of bytes to printable characters.
std::string ByteLevelCharacter(unsigned byte) {
  unsigned next = 256;
  unsigned found = 0;
  for (unsigned b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const unsigned code_point = printable ? b : next++;
    if (b == byte) {
      found = code_point;
    }
  }
  std::string text;
  Append(&text, found);
  return text;
}

Json AddedToken(int32_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

void WriteTinyModel(const std::string& dir) {
  Json vocab = Json::object();
  for (unsigned byte = 0; byte < 256; ++byte) {
    vocab[ByteLevelCharacter(byte)] = byte;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", Json::array({AddedToken(kEndOfText, "<|endoftext|>"),
                                                        AddedToken(kImStart, "<|im_start|>"),
                                                        AddedToken(kImEnd, "<|im_end|>")})},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"vocab", vocab},
                            {"merges", Json::array()}}}};
  Write(dir + "/tokenizer.json", tokenizer.dump());
  const Json config = {
      {"eos_token", "<|endoftext|>"},
      {"chat_template",
       "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
       "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"}};
  Write(dir + "/tokenizer_config.json", config.dump());
  Write(dir + "/config.json", R"({"eos_token_id": 256, "max_position_embeddings": 512})");
  Write(dir + "/generation_config.json", R"({"eos_token_id": [256, 258]})");
}

TinyModelDir::TinyModelDir() {
  std::string pattern = std::filesystem::temp_directory_path() / "moe-tiny-model-XXXXXX";
  path_ = mkdtemp(pattern.data());
  WriteTinyModel(path_);
}

TinyModelDir::~TinyModelDir() { std::filesystem::remove_all(path_); }

ServedModel LoadTinyModel() {
  const TinyModelDir dir;
  absl::StatusOr<ServedModel> model = LoadServedModel(dir.path(), "tiny");
  if (!model.ok()) {
    std::abort();
  }
  return *std::move(model);
}

std::vector<int32_t> BytesAsTokens(const std::string& text) {
  std::vector<int32_t> tokens;
  for (const char c : text) {
    tokens.push_back(static_cast<unsigned char>(c));
  }
  return tokens;
}

}  // namespace moe::gateway::testing
