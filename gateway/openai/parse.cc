// See parse.h.
#include "gateway/openai/parse.h"

#include <array>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gateway/openai/field_reader.h"
#include "gateway/openai/strict_json.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

// Parameters that would change the answer and are not built: refused unless absent, null, or a
// value that asks for nothing.
constexpr std::array<absl::string_view, 27> kUnsupported = {"response_format",
                                                            "tools",
                                                            "functions",
                                                            "tool_choice",
                                                            "function_call",
                                                            "audio",
                                                            "modalities",
                                                            "suffix",
                                                            "guided_json",
                                                            "guided_regex",
                                                            "guided_choice",
                                                            "guided_grammar",
                                                            "structured_outputs",
                                                            "structural_tag",
                                                            "chat_template",
                                                            "chat_template_kwargs",
                                                            "documents",
                                                            "bad_words",
                                                            "allowed_token_ids",
                                                            "prompt_logprobs",
                                                            "use_beam_search",
                                                            "include_stop_str_in_output",
                                                            "truncate_prompt_tokens",
                                                            "continue_final_message",
                                                            "web_search_options",
                                                            "prediction",
                                                            "prompt_embeds"};

bool AsksForNothing(absl::string_view name, const Json& value) {
  if (name == "response_format") {
    return value.is_object() && value.value("type", Json()) == "text";
  }
  if (name == "tool_choice" || name == "function_call") {
    return value == "none";
  }
  if (name == "modalities") {
    return value == Json::array({"text"});
  }
  // Json::empty() does not look into a text.
  return value == false || (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

void RefuseUnsupported(const Json& body, FieldReader& fields) {
  for (const absl::string_view name : kUnsupported) {
    const Json* value = fields.Find(name);
    if (value != nullptr && !AsksForNothing(name, *value)) {
      fields.Unsupported(name);
    }
  }
  // These default to true.
  for (const char* name :
       {"skip_special_tokens", "add_generation_prompt", "spaces_between_special_tokens"}) {
    const Json* value = fields.Find(name);
    if (value != nullptr && *value != true) {
      fields.Unsupported(name);
    }
  }
  // Whatever else vLLM's users send to constrain output under a name that may be new.
  for (const auto& [name, value] : body.items()) {
    if (absl::StartsWith(name, "guided_") && !value.is_null()) {
      fields.Unsupported(name);
    }
  }
}

// `limit` ids below the vocabulary's size.
bool ReadTokenIds(const Json& list, absl::string_view field, size_t limit, int32_t vocab_size,
                  FieldReader& fields, std::vector<int32_t>* out) {
  if (list.size() > limit) {
    fields.Fail(
        field, absl::StrCat("'", field, "' has ", list.size(), " entries, more than ", limit, "."));
    return false;
  }
  out->reserve(list.size());
  for (const Json& item : list) {
    const std::optional<int64_t> id = AsInteger(item);
    if (!id.has_value()) {
      fields.Fail(field, absl::StrCat("'", field, "' must hold token ids only."));
      return false;
    }
    if (*id < 0 || *id >= vocab_size) {
      fields.Fail(field, absl::StrCat("'", field, "' holds the token id ", *id,
                                      "; ids are from 0 to ", vocab_size - 1, "."));
      return false;
    }
    out->push_back(static_cast<int32_t>(*id));
  }
  return true;
}

void ReadStop(const ParseLimits& limits, FieldReader& fields, SamplingOptions* sampling) {
  const Json* value = fields.Find("stop");
  if (value == nullptr) {
    return;
  }
  const auto add = [&](const Json& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      fields.Fail("stop", "'stop' must be a string or a list of strings, none of them empty.");
      return;
    }
    const auto& text = item.get_ref<const std::string&>();
    if (text.size() > limits.max_stop_bytes) {
      fields.Fail("stop", absl::StrCat("A string of 'stop' is longer than ", limits.max_stop_bytes,
                                       " bytes."));
      return;
    }
    if (text.find('\0') != std::string::npos) {
      fields.Fail("stop", "'stop' must not hold a NUL character.");
      return;
    }
    sampling->stop.push_back(text);
  };
  if (!value->is_array()) {
    add(*value);
    return;
  }
  if (value->size() > static_cast<size_t>(limits.max_stop)) {
    fields.Fail("stop", absl::StrCat("'stop' has ", value->size(), " strings, more than ",
                                     limits.max_stop, "."));
    return;
  }
  for (const Json& item : *value) {
    add(item);
  }
}

void ReadLogitBias(const ParseLimits& limits, FieldReader& fields, SamplingOptions* sampling) {
  const Json* value = fields.Find("logit_bias");
  if (value == nullptr) {
    return;
  }
  if (!value->is_object()) {
    fields.Fail("logit_bias", "'logit_bias' must map token ids to numbers.");
    return;
  }
  if (value->size() > static_cast<size_t>(limits.max_logit_bias)) {
    fields.Fail("logit_bias", absl::StrCat("'logit_bias' has ", value->size(),
                                           " entries, more than ", limits.max_logit_bias, "."));
    return;
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= limits.vocab_size) {
      fields.Fail("logit_bias",
                  absl::StrCat("'logit_bias' has the key '", Shortened(key),
                               "'; token ids are from 0 to ", limits.vocab_size - 1, "."));
      return;
    }
    const double number = bias.is_number() ? bias.get<double>() : 1e9;
    if (!(number >= -100 && number <= 100)) {
      fields.Fail("logit_bias", "The values of 'logit_bias' must be numbers from -100 to 100.");
      return;
    }
    // "7" and "07" are one token: the last one counts, as in a map.
    sampling->logit_bias.emplace_back(id, static_cast<float>(number));
  }
}

void ReadSeed(FieldReader& fields, SamplingOptions* sampling) {
  const Json* value = fields.Find("seed");
  if (value == nullptr) {
    return;
  }
  if (value->is_number_unsigned()) {
    sampling->seed = value->get<uint64_t>();
    return;
  }
  const std::optional<int64_t> seed = AsInteger(*value);
  if (!seed.has_value()) {
    fields.Fail("seed", "'seed' must be an integer of at most 64 bits.");
    return;
  }
  sampling->seed = static_cast<uint64_t>(*seed);
}

// What both APIs share. `min_max_tokens` is the least that max_tokens may be.
void ReadSampling(const ParseLimits& limits, int64_t min_max_tokens, FieldReader& fields,
                  SamplingOptions* sampling) {
  int64_t number = 1;
  fields.Integer("n", 1, limits.max_n, &number);
  sampling->n = static_cast<int>(number);
  fields.Integer("max_tokens", min_max_tokens, kMaxTokens, &sampling->max_tokens);
  fields.Integer("max_completion_tokens", min_max_tokens, kMaxTokens, &sampling->max_tokens);
  fields.Integer("min_tokens", 0, kMaxTokens, &sampling->min_tokens);
  if (sampling->max_tokens.has_value() && sampling->min_tokens > *sampling->max_tokens) {
    fields.Fail("min_tokens",
                absl::StrCat("'min_tokens' (", sampling->min_tokens,
                             ") is more than 'max_tokens' (", *sampling->max_tokens, ")."));
  }
  fields.Number("temperature", 0, 2, false, &sampling->temperature);
  fields.Number("top_p", 0, 1, true, &sampling->top_p);
  number = 0;
  fields.Integer("top_k", -1, kMaxTokens, &number);  // -1 is another way to say off
  sampling->top_k = number < 0 ? 0 : static_cast<int32_t>(number);
  fields.Number("min_p", 0, 1, false, &sampling->min_p);
  fields.Number("frequency_penalty", -2, 2, false, &sampling->frequency_penalty);
  fields.Number("presence_penalty", -2, 2, false, &sampling->presence_penalty);
  // Logits are divided by it: close to 0 it would make them infinite, and no token could be drawn.
  fields.Number("repetition_penalty", 0.01, 10, false, &sampling->repetition_penalty);
  fields.Boolean("ignore_eos", &sampling->ignore_eos);
  ReadSeed(fields, sampling);
  ReadStop(limits, fields, sampling);
  ReadLogitBias(limits, fields, sampling);
  if (const Json* ids = fields.Find("stop_token_ids"); ids != nullptr) {
    if (ids->is_array()) {
      ReadTokenIds(*ids, "stop_token_ids", static_cast<size_t>(limits.max_stop_token_ids),
                   limits.vocab_size, fields, &sampling->stop_token_ids);
    } else {
      fields.Fail("stop_token_ids", "'stop_token_ids' must be a list of token ids.");
    }
  }
  if (const Json* best_of = fields.Find("best_of"); best_of != nullptr) {
    // Only choices that are all returned; ranking more of them is not built.
    if (AsInteger(*best_of) != sampling->n) {
      fields.Unsupported("best_of");
    }
  }
}

void ReadStreaming(FieldReader& fields, StreamOptions* streaming) {
  fields.Boolean("stream", &streaming->stream);
  const Json* value = fields.Find("stream_options");
  if (value == nullptr) {
    return;
  }
  if (!value->is_object()) {
    fields.Fail("stream_options", "'stream_options' must be an object.");
    return;
  }
  if (!streaming->stream) {
    fields.Fail("stream_options", "'stream_options' is only allowed when 'stream' is true.");
    return;
  }
  FieldReader options(*value, "stream_options.");
  options.Boolean("include_usage", &streaming->include_usage);
  options.Boolean("continuous_usage_stats", &streaming->continuous_usage_stats);
  if (std::optional<ApiError> error = options.TakeError(); error.has_value()) {
    fields.Fail("stream_options", error->message);
  }
}

void AddTextPrompt(const Json& text, const std::string& field, FieldReader& fields,
                   std::vector<Prompt>* prompts) {
  const auto& value = text.get_ref<const std::string&>();
  if (value.empty()) {
    fields.Fail(field, absl::StrCat("'", field, "' is empty."));
  } else if (value.find('\0') != std::string::npos) {
    fields.Fail(field, absl::StrCat("'", field, "' must not hold a NUL character."));
  } else {
    prompts->push_back(Prompt{.is_tokens = false, .text = value, .tokens = {}});
  }
}

void AddTokenPrompt(const Json& list, const std::string& field, const ParseLimits& limits,
                    FieldReader& fields, std::vector<Prompt>* prompts) {
  if (list.empty()) {
    fields.Fail(field, absl::StrCat("'", field, "' is empty."));
    return;
  }
  Prompt prompt;
  prompt.is_tokens = true;
  if (ReadTokenIds(list, field, list.size(), limits.vocab_size, fields, &prompt.tokens)) {
    prompts->push_back(std::move(prompt));
  }
}

// Text, a list of texts, a list of token ids, or a list of such lists.
void ReadPrompts(const ParseLimits& limits, FieldReader& fields, std::vector<Prompt>* prompts) {
  const Json* value = fields.Find("prompt");
  if (value == nullptr) {
    fields.Fail("prompt", "'prompt' is required.");
    return;
  }
  if (value->is_string()) {
    AddTextPrompt(*value, "prompt", fields, prompts);
    return;
  }
  if (!value->is_array()) {
    fields.Fail("prompt", "'prompt' must be text, token ids, or a list of these.");
    return;
  }
  if (value->empty()) {
    fields.Fail("prompt", "'prompt' is empty.");
    return;
  }
  if (value->front().is_number()) {
    AddTokenPrompt(*value, "prompt", limits, fields, prompts);
    return;
  }
  if (value->size() > static_cast<size_t>(limits.max_prompts)) {
    fields.Fail("prompt", absl::StrCat("'prompt' has ", value->size(), " prompts, more than ",
                                       limits.max_prompts, "."));
    return;
  }
  for (size_t i = 0; i < value->size() && fields.ok(); ++i) {
    const Json& item = (*value)[i];
    const std::string field = absl::StrCat("prompt[", i, "]");
    if (item.is_string() && value->front().is_string()) {
      AddTextPrompt(item, field, fields, prompts);
    } else if (item.is_array() && value->front().is_array()) {
      AddTokenPrompt(item, field, limits, fields, prompts);
    } else {
      fields.Fail(field, "'prompt' must be text, token ids, or a list of one of these.");
    }
  }
}

// Content is text, or a list of text parts, which are joined.
void ReadContent(FieldReader& fields, const std::string& path, ChatMessage* message) {
  const Json* content = fields.Find("content");
  if (content == nullptr) {
    fields.Fail("content", absl::StrCat("'", path, "content' is required."));
    return;
  }
  if (content->is_string()) {
    fields.String("content", &message->content);
    return;
  }
  if (!content->is_array() || content->empty()) {
    fields.Fail("content",
                absl::StrCat("'", path, "content' must be text or a list of text parts."));
    return;
  }
  for (size_t i = 0; i < content->size() && fields.ok(); ++i) {
    const Json& part = (*content)[i];
    const std::string part_path = absl::StrCat("content[", i, "]");
    const std::string type =
        part.is_object() && part.value("type", Json()).is_string() ? part.value("type", "") : "";
    if (type != "text") {
      fields.Fail(part_path, absl::StrCat("'", path, part_path,
                                          "' is not a text part; only text is supported."));
      return;
    }
    FieldReader part_fields(part, absl::StrCat(path, part_path, "."));
    if (part_fields.Find("text") == nullptr) {
      fields.Fail(part_path, absl::StrCat("'", path, part_path, ".text' is required."));
      return;
    }
    std::string text;
    part_fields.String("text", &text);
    if (std::optional<ApiError> error = part_fields.TakeError(); error.has_value()) {
      fields.Fail(part_path, error->message);
      return;
    }
    message->content += text;
  }
}

std::optional<ApiError> ReadMessage(const Json& value, size_t index, ChatMessage* message) {
  const std::string path = absl::StrCat("messages[", index, "].");
  if (!value.is_object()) {
    return InvalidField(absl::StrCat("messages[", index, "]"),
                        absl::StrCat("'messages[", index, "]' must be an object."));
  }
  FieldReader fields(value, path);
  fields.String("role", &message->role);
  if (message->role == "developer") {
    message->role = "system";  // OpenAI's newer name for it
  }
  if (message->role != "system" && message->role != "user" && message->role != "assistant") {
    fields.Fail("role", absl::StrCat("'", path,
                                     "role' must be system, developer, user or assistant; tool "
                                     "messages are not supported."));
  }
  for (const char* name : {"tool_calls", "function_call", "tool_call_id", "audio"}) {
    const Json* field = fields.Find(name);
    if (field != nullptr && !field->empty()) {
      fields.Unsupported(name);
    }
  }
  ReadContent(fields, path, message);
  if (fields.Find("name") != nullptr) {
    std::string name;
    fields.String("name", &name);
    message->name = std::move(name);
  }
  return fields.TakeError();
}

std::optional<ApiError> ParseObject(absl::string_view text, Json* body) {
  if (std::optional<ApiError> error = ParseStrictJson(text, body); error.has_value()) {
    return error;
  }
  if (!body->is_object()) {
    return InvalidField("", "The body must be a JSON object.");
  }
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> ParseCompletionRequest(absl::string_view text, const ParseLimits& limits,
                                               CompletionRequest* request) {
  Json body;
  if (std::optional<ApiError> error = ParseObject(text, &body); error.has_value()) {
    return error;
  }
  FieldReader fields(body);
  RefuseUnsupported(body, fields);
  fields.String("model", &request->model);
  fields.Boolean("echo", &request->echo);
  // With echo, no token at all may be asked for: that scores the prompt.
  ReadSampling(limits, request->echo ? 0 : 1, fields, &request->sampling);
  ReadStreaming(fields, &request->streaming);
  std::optional<int64_t> logprobs;
  fields.Integer("logprobs", 0, limits.max_logprobs, &logprobs);
  if (logprobs.has_value()) {
    request->logprobs = static_cast<int>(*logprobs);
  }
  if (fields.ok()) {
    ReadPrompts(limits, fields, &request->prompts);
  }
  const size_t num_choices = request->prompts.size() * static_cast<size_t>(request->sampling.n);
  if (num_choices > static_cast<size_t>(limits.max_choices)) {
    fields.Fail("n", absl::StrCat("Prompts times 'n' is ", num_choices, ", more than ",
                                  limits.max_choices, "."));
  }
  return fields.TakeError();
}

std::optional<ApiError> ParseChatRequest(absl::string_view text, const ParseLimits& limits,
                                         ChatRequest* request) {
  Json body;
  if (std::optional<ApiError> error = ParseObject(text, &body); error.has_value()) {
    return error;
  }
  FieldReader fields(body);
  RefuseUnsupported(body, fields);
  if (const Json* echo = fields.Find("echo"); echo != nullptr && *echo != false) {
    fields.Unsupported("echo");
  }
  fields.String("model", &request->model);
  ReadSampling(limits, 1, fields, &request->sampling);
  ReadStreaming(fields, &request->streaming);
  bool with_logprobs = false;
  fields.Boolean("logprobs", &with_logprobs);
  std::optional<int64_t> top_logprobs;
  fields.Integer("top_logprobs", 0, limits.max_logprobs, &top_logprobs);
  if (top_logprobs.value_or(0) > 0 && !with_logprobs) {
    fields.Fail("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
  }
  if (with_logprobs) {
    request->logprobs = static_cast<int>(top_logprobs.value_or(0));
  }
  const Json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    fields.Fail("messages", "'messages' must be a list with at least one message.");
  } else if (messages->size() > static_cast<size_t>(limits.max_messages)) {
    fields.Fail("messages", absl::StrCat("'messages' has ", messages->size(),
                                         " messages, more than ", limits.max_messages, "."));
  }
  if (std::optional<ApiError> error = fields.TakeError(); error.has_value()) {
    return error;
  }
  request->messages.resize(messages->size());
  for (size_t i = 0; i < messages->size(); ++i) {
    if (std::optional<ApiError> error = ReadMessage((*messages)[i], i, &request->messages[i]);
        error.has_value()) {
      return error;
    }
  }
  return std::nullopt;
}

}  // namespace moe::gateway
