// The text files of a model folder: tokenizer_config.json, special_tokens_map.json and the chat
// template.
//
// ReadModelFile is also for gateway/serving; the rest is private to this folder. Errors name a file
// relative to the model folder, never the folder itself. Tested by
// tests/gateway/text/tokenizer_test.cc and chat_template_test.cc.
#ifndef GATEWAY_TEXT_MODEL_TEXT_CONFIG_H_
#define GATEWAY_TEXT_MODEL_TEXT_CONFIG_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moe::text {

// What the configuration files say about special tokens.
struct TextConfig {
  // By key: "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
  // "mask_token".
  std::map<std::string, std::string> named_tokens;
  // All of the above and the additional ones.
  std::vector<std::string> special_tokens;
  // Whether encoding adds them. Unset: as tokenizer.json has it.
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  // The template inside tokenizer_config.json: a text, or of several named ones the one called
  // "default".
  std::optional<std::string> chat_template;
};

// Reads tokenizer_config.json and, for tokens it does not name, special_tokens_map.json. Both may
// be absent. INVALID_ARGUMENT for a file that is not JSON, is nested too deeply, or has a value of
// the wrong type or an auto_map (which asks for Python code of the model to be run).
absl::StatusOr<TextConfig> ReadTextConfig(const std::string& model_dir);

// The content of a regular file. NOT_FOUND when it is absent, INVALID_ARGUMENT when it is no
// regular file, is a link that leaves the model folder (see model::File::OpenInDir), is empty or
// has more than `max_bytes`.
absl::StatusOr<std::string> ReadModelFile(const std::string& model_dir, const std::string& name,
                                          int64_t max_bytes);

}  // namespace moe::text

#endif  // GATEWAY_TEXT_MODEL_TEXT_CONFIG_H_
