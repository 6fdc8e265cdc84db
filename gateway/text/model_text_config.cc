// See model_text_config.h.
#include "gateway/text/model_text_config.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "worker/model/file.h"

namespace moe::text {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int kMaxJsonDepth = 64;
constexpr const char* kTokenKeys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};

absl::Status WrongType(const std::string& file, const std::string& key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": '", key, "' must be ", wanted));
}

// Messages begin with the path of a file; clients may see them and shall not see the folder.
absl::Status WithoutFolder(const absl::Status& status, const std::string& model_dir) {
  const std::string folder = std::filesystem::path(model_dir) / "";
  absl::string_view message = status.message();
  absl::ConsumePrefix(&message, folder);
  return absl::Status(status.code(), message);
}

// Parses an object. Values below the allowed depth are never stored, so that no later step recurses
// into them.
absl::StatusOr<json> ReadJsonObject(const std::string& model_dir, const std::string& file) {
  absl::StatusOr<std::string> content = ReadModelFile(model_dir, file, kMaxConfigBytes);
  if (!content.ok()) return content.status();
  bool too_deep = false;
  auto bound = [&too_deep](int depth, json::parse_event_t, json&) {
    if (depth > kMaxJsonDepth) too_deep = true;
    return depth <= kMaxJsonDepth;
  };
  json value = json::parse(*content, bound, /*allow_exceptions=*/false);
  if (too_deep) return absl::InvalidArgumentError(absl::StrCat(file, ": nested too deeply"));
  if (value.is_discarded())
    return absl::InvalidArgumentError(absl::StrCat(file, ": not valid JSON"));
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, ": not an object"));
  return value;
}

// A token is a text or an object with its content. Unset for null.
absl::StatusOr<std::optional<std::string>> TokenText(const json& value, const std::string& file,
                                                     const std::string& key) {
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) {
    auto content = value.find("content");
    if (content != value.end() && content->is_string()) return content->get<std::string>();
  }
  return WrongType(file, key, "a text or an object with a text 'content'");
}

absl::Status ReadSpecialTokens(const json& object, const std::string& file, TextConfig& config) {
  for (const char* key : kTokenKeys) {
    auto value = object.find(key);
    if (value == object.end() || config.named_tokens.contains(key)) continue;
    absl::StatusOr<std::optional<std::string>> text = TokenText(*value, file, key);
    if (!text.ok()) return text.status();
    const std::optional<std::string>& token = *text;
    if (!token.has_value()) continue;
    config.special_tokens.push_back(*token);
    config.named_tokens.emplace(key, *token);
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    auto list = object.find(key);
    if (list == object.end() || list->is_null()) continue;
    // An object maps names to tokens; iterating visits its values.
    if (!list->is_array() && !list->is_object()) return WrongType(file, key, "a list of tokens");
    for (const json& item : *list) {
      absl::StatusOr<std::optional<std::string>> text = TokenText(item, file, key);
      if (!text.ok()) return text.status();
      const std::optional<std::string>& token = *text;
      if (token.has_value()) config.special_tokens.push_back(*token);
    }
  }
  auto decoder = object.find("added_tokens_decoder");
  if (decoder == object.end() || decoder->is_null()) return absl::OkStatus();
  if (!decoder->is_object()) return WrongType(file, "added_tokens_decoder", "an object");
  for (const json& token : *decoder) {
    if (!token.is_object()) return WrongType(file, "added_tokens_decoder", "an object of objects");
    auto special = token.find("special");
    if (special == token.end() || *special != json(true)) continue;
    absl::StatusOr<std::optional<std::string>> text =
        TokenText(token, file, "added_tokens_decoder");
    if (!text.ok()) return text.status();
    const std::optional<std::string>& content = *text;
    if (content.has_value()) config.special_tokens.push_back(*content);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<bool>> ReadBool(const json& object, const std::string& file,
                                             const char* key) {
  auto value = object.find(key);
  if (value == object.end() || value->is_null()) return std::nullopt;
  if (!value->is_boolean()) return WrongType(file, key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::optional<std::string>> ReadTemplate(const json& object,
                                                        const std::string& file) {
  auto value = object.find("chat_template");
  if (value == object.end() || value->is_null()) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  constexpr const char* kWanted = "a text or a list of objects with 'name' and 'template'";
  if (!value->is_array()) return WrongType(file, "chat_template", kWanted);
  std::optional<std::string> chosen;
  for (const json& entry : *value) {
    if (!entry.is_object()) return WrongType(file, "chat_template", kWanted);
    auto name = entry.find("name");
    auto source = entry.find("template");
    if (name == entry.end() || !name->is_string() || source == entry.end() ||
        !source->is_string()) {
      return WrongType(file, "chat_template", kWanted);
    }
    if (*name == "default") chosen = source->get<std::string>();
  }
  if (!chosen.has_value() && !value->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": 'chat_template' has no template called 'default'"));
  }
  return chosen;
}

}  // namespace

absl::StatusOr<std::string> ReadModelFile(const std::string& model_dir, const std::string& name,
                                          int64_t max_bytes) {
  absl::StatusOr<model::File> file = model::File::OpenInDir(model_dir, name);
  if (absl::IsNotFound(file.status())) {
    return absl::NotFoundError(absl::StrCat(name, ": not found in the model folder"));
  }
  if (!file.ok()) return WithoutFolder(file.status(), model_dir);
  if (file->num_bytes() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": the file is empty"));
  }
  absl::StatusOr<std::string> content = file->ReadAll(static_cast<uint64_t>(max_bytes));
  if (!content.ok()) return WithoutFolder(content.status(), model_dir);
  return content;
}

absl::StatusOr<TextConfig> ReadTextConfig(const std::string& model_dir) {
  TextConfig config;
  for (const std::string file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    absl::StatusOr<json> object = ReadJsonObject(model_dir, file);
    if (absl::IsNotFound(object.status())) continue;
    if (!object.ok()) return object.status();
    if (absl::Status status = ReadSpecialTokens(*object, file, config); !status.ok()) return status;
    if (file != "tokenizer_config.json") continue;
    if (auto map = object->find("auto_map"); map != object->end() && !map->is_null()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": 'auto_map' asks for Python code of the model, which is never run"));
    }
    absl::StatusOr<std::optional<bool>> add_bos = ReadBool(*object, file, "add_bos_token");
    if (!add_bos.ok()) return add_bos.status();
    absl::StatusOr<std::optional<bool>> add_eos = ReadBool(*object, file, "add_eos_token");
    if (!add_eos.ok()) return add_eos.status();
    absl::StatusOr<std::optional<std::string>> chat_template = ReadTemplate(*object, file);
    if (!chat_template.ok()) return chat_template.status();
    config.add_bos_token = *add_bos;
    config.add_eos_token = *add_eos;
    config.chat_template = *std::move(chat_template);
  }
  std::sort(config.special_tokens.begin(), config.special_tokens.end());
  config.special_tokens.erase(
      std::unique(config.special_tokens.begin(), config.special_tokens.end()),
      config.special_tokens.end());
  return config;
}

}  // namespace moe::text
