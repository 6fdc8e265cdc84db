// See served_model.h.
#include "gateway/serving/served_model.h"

#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gateway/text/model_text_config.h"
#include "nlohmann/json.hpp"
#include "worker/model/bounded_json.h"

namespace moe::gateway {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

// A JSON object of the model folder; an empty one when the file is absent.
absl::StatusOr<Json> ReadConfig(const std::string& model_dir, const std::string& file) {
  const absl::StatusOr<std::string> text = text::ReadModelFile(model_dir, file, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) {
    return Json::object();
  }
  if (!text.ok()) {
    return text.status();
  }
  return model::ParseJsonObject(*text, file);
}

// eos_token_id is an id, a list of ids, null or absent.
absl::Status AddEndTokens(const Json& config, const std::string& file, std::set<int32_t>* ids) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null()) {
    return absl::OkStatus();
  }
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": eos_token_id is not a token id"));
    }
    ids->insert(id.get<int32_t>());
  }
  return absl::OkStatus();
}

// A token id for which the embedding has no row could not be computed. The other way round is
// usual: published models round their vocabulary up.
absl::Status CheckTokenizerFits(const Json& config, const std::string& file,
                                int64_t num_tokenizer_ids) {
  const auto found = config.find("vocab_size");
  if (found == config.end() || !found->is_number_unsigned() ||
      found->get<uint64_t>() >= static_cast<uint64_t>(num_tokenizer_ids)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      file, ": vocab_size is ", found->get<uint64_t>(), ", but tokenizer.json has token ids up to ",
      num_tokenizer_ids - 1, "; it must be above all of them"));
}

}  // namespace

absl::StatusOr<ServedModel> LoadServedModel(const std::string& model_dir, std::string name) {
  ServedModel model;
  model.name = std::move(name);
  absl::StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer = text::Tokenizer::Load(model_dir);
  if (!tokenizer.ok()) {
    return tokenizer.status();
  }
  model.tokenizer = *std::move(tokenizer);
  absl::StatusOr<std::unique_ptr<text::ChatTemplate>> chat_template =
      text::ChatTemplate::Load(model_dir);
  if (!chat_template.ok()) {
    return chat_template.status();
  }
  model.chat_template = *std::move(chat_template);

  std::set<int32_t> end_tokens;
  for (const char* file : {"generation_config.json", "config.json"}) {
    const absl::StatusOr<Json> config = ReadConfig(model_dir, file);
    if (!config.ok()) {
      return config.status();
    }
    if (absl::Status status = AddEndTokens(*config, file, &end_tokens); !status.ok()) {
      return status;
    }
    if (absl::Status status = CheckTokenizerFits(*config, file, model.tokenizer->vocab_size());
        !status.ok()) {
      return status;
    }
    const auto context = config->find("max_position_embeddings");
    if (context != config->end() && context->is_number_unsigned()) {
      model.max_context = context->get<int64_t>();
    }
  }
  if (const std::optional<int32_t> id = model.tokenizer->eos_id(); id.has_value()) {
    end_tokens.insert(*id);
  }
  model.end_token_ids.assign(end_tokens.begin(), end_tokens.end());
  return model;
}

}  // namespace moe::gateway
