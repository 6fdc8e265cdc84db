// See response.h.
#include "gateway/openai/response.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// JSON has no infinity; a token that can't be drawn has a probability of 0.
Json Logprob(float value) { return std::max(value, -9999.0F); }

bool IsUtf8(absl::string_view bytes) {
  size_t i = 0;
  while (i < bytes.size()) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    size_t length = 0;
    uint32_t value = 0;
    if (lead < 0x80) {
      length = 1;
      value = lead;
    } else if (lead >= 0xC2 && lead < 0xE0) {
      length = 2;
      value = lead & 0x1FU;
    } else if (lead >= 0xE0 && lead < 0xF0) {
      length = 3;
      value = lead & 0x0FU;
    } else if (lead >= 0xF0 && lead < 0xF5) {
      length = 4;
      value = lead & 0x07U;
    } else {
      return false;
    }
    if (bytes.size() - i < length) {
      return false;
    }
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i + k]);
      if ((next & 0xC0U) != 0x80) {
        return false;
      }
      value = (value << 6U) | (next & 0x3FU);
    }
    const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
    const bool surrogate = value >= 0xD800 && value < 0xE000;
    if (overlong || surrogate || value > 0x10FFFF) {
      return false;
    }
    i += length;
  }
  return true;
}

Json ByteList(absl::string_view bytes) {
  Json list = Json::array();
  for (const char c : bytes) {
    list.push_back(static_cast<unsigned char>(c));
  }
  return list;
}

Json CompletionLogprobs(const std::vector<TokenInfo>& tokens) {
  Json texts = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  for (const TokenInfo& token : tokens) {
    texts.push_back(TokenText(token.bytes));
    offsets.push_back(token.text_offset);
    if (!token.logprob.has_value()) {
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(Logprob(*token.logprob));
    Json top = Json::object();
    for (const TopToken& entry : token.top) {
      // Two tokens may have the same text: the likelier one stays.
      top.emplace(TokenText(entry.bytes), Logprob(entry.logprob));
    }
    // The drawn token is always there, beside the likeliest.
    top.emplace(TokenText(token.bytes), Logprob(*token.logprob));
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json ChatLogprobs(const std::vector<TokenInfo>& tokens) {
  Json content = Json::array();
  for (const TokenInfo& token : tokens) {
    Json top = Json::array();
    for (const TopToken& entry : token.top) {
      top.push_back({{"token", TokenText(entry.bytes)},
                     {"logprob", Logprob(entry.logprob)},
                     {"bytes", ByteList(entry.bytes)}});
    }
    content.push_back({{"token", TokenText(token.bytes)},
                       {"logprob", Logprob(token.logprob.value_or(-9999.0F))},
                       {"bytes", ByteList(token.bytes)},
                       {"top_logprobs", std::move(top)}});
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json LogprobsOf(Api api, const ChoicePart& choice) {
  if (!choice.with_logprobs) {
    return nullptr;
  }
  return api == Api::kChat ? ChatLogprobs(choice.logprobs) : CompletionLogprobs(choice.logprobs);
}

Json FinishReason(const ChoicePart& choice) {
  return choice.finish_reason.empty() ? Json(nullptr) : Json(choice.finish_reason);
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json HeadJson(const ResponseHead& head, bool chunk) {
  const char* object = head.api == Api::kCompletions ? "text_completion"
                       : chunk                       ? "chat.completion.chunk"
                                                     : "chat.completion";
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", head.fingerprint}};
}

Json ModelJson(absl::string_view model, int64_t created, int64_t max_context) {
  return {{"id", std::string(model)},
          {"object", "model"},
          {"created", created},
          {"owned_by", "moe-operator"},
          {"max_model_len", max_context > 0 ? Json(max_context) : Json(nullptr)}};
}

}  // namespace

std::string WholeResponse(const ResponseHead& head, const std::vector<ChoicePart>& choices,
                          const Usage& usage) {
  Json list = Json::array();
  for (const ChoicePart& choice : choices) {
    Json entry = {{"index", choice.index}};
    if (head.api == Api::kChat) {
      entry["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      entry["text"] = choice.text;
    }
    entry["logprobs"] = LogprobsOf(head.api, choice);
    entry["finish_reason"] = FinishReason(choice);
    list.push_back(std::move(entry));
  }
  Json body = HeadJson(head, false);
  body["choices"] = std::move(list);
  body["usage"] = UsageJson(usage);
  return Dump(body);
}

std::string ChunkResponse(const ResponseHead& head, const ChoicePart& choice,
                          const std::optional<Usage>& usage) {
  Json entry = {{"index", choice.index}};
  if (head.api == Api::kChat) {
    Json delta = Json::object();
    if (choice.first) {
      delta["role"] = "assistant";
    }
    if (choice.first || !choice.text.empty()) {
      delta["content"] = choice.text;
    }
    entry["delta"] = std::move(delta);
  } else {
    entry["text"] = choice.text;
  }
  entry["logprobs"] = LogprobsOf(head.api, choice);
  entry["finish_reason"] = FinishReason(choice);
  Json body = HeadJson(head, true);
  body["choices"] = Json::array({std::move(entry)});
  if (usage.has_value()) {
    body["usage"] = UsageJson(*usage);
  }
  return Dump(body);
}

std::string UsageChunk(const ResponseHead& head, const Usage& usage) {
  Json body = HeadJson(head, true);
  body["choices"] = Json::array();
  body["usage"] = UsageJson(usage);
  return Dump(body);
}

std::string SseEvent(absl::string_view json) { return absl::StrCat("data: ", json, "\n\n"); }

std::string SseError(const ApiError& error) { return SseEvent(ErrorJson(error)); }

std::string ModelEntry(absl::string_view model, int64_t created, int64_t max_context) {
  return Dump(ModelJson(model, created, max_context));
}

std::string ModelList(absl::string_view model, int64_t created, int64_t max_context) {
  return Dump(
      {{"object", "list"}, {"data", Json::array({ModelJson(model, created, max_context)})}});
}

std::string TokenText(absl::string_view bytes) {
  if (IsUtf8(bytes)) {
    return std::string(bytes);
  }
  std::string text = "bytes:";
  for (const char c : bytes) {
    absl::StrAppend(&text, absl::StrFormat("\\x%02x", static_cast<unsigned char>(c)));
  }
  return text;
}

int64_t CountCharacters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; });
}

}  // namespace moe::gateway
