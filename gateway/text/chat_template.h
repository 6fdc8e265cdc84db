// A model's chat template: messages in, the prompt's text out, as transformers' apply_chat_template
// gives it.
//
// Templates are Jinja and come with the model. They run in an environment like that of transformers
// (trim_blocks, lstrip_blocks, raise_exception, strftime_now, tojson as json.dumps, Python's string
// methods, the special tokens as variables, tools and documents as none) and with bounds on
// instructions, recursion and output. What is not bounded is the memory of one expression (`x ~ x`
// forty times over): a template is part of the model, never of a request.
//
// Threads: const methods may be called from any number of threads at once. A rendering runs on a
// thread of its own, for its stack, while the caller waits.
//
// Errors: NOT_FOUND when the model has no template; INVALID_ARGUMENT for a template that fails,
// with its own words where it calls raise_exception; RESOURCE_EXHAUSTED when it passes a bound.
// Messages hold no path.
//
// Tested by tests/gateway/text/chat_template_test.cc.
#ifndef GATEWAY_TEXT_CHAT_TEMPLATE_H_
#define GATEWAY_TEXT_CHAT_TEMPLATE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/text/tokenizer.h"

struct MoeTextTemplate;

namespace moe::text {

struct ChatMessage {
  std::string role;
  std::string content;
  std::optional<std::string> name;
};

using TemplateValue = std::variant<std::string, bool, int64_t, double>;

struct RenderOptions {
  // End the prompt with the beginning of the assistant's answer.
  bool add_generation_prompt = true;
  // More variables, as a request's chat_template_kwargs. Special tokens in them are guarded like
  // those in messages. They may not replace "messages" or the model's special tokens.
  std::map<std::string, TemplateValue> extra;
  // What strftime_now shows, and where. Tests set both.
  absl::Time now = absl::Now();
  absl::TimeZone time_zone = absl::LocalTimeZone();

  // Instructions of the template, in all; a published template takes tens to a few hundred per
  // message.
  uint64_t fuel = 2'000'000;
  // ... and more for each message.
  uint64_t fuel_per_message = 2'000;
  // Depth of macros, loops and includes.
  size_t max_recursion = 100;
  size_t max_output_bytes = size_t{8} << 20;
};

class ChatTemplate {
 public:
  static constexpr int64_t kMaxFileBytes = int64_t{4} << 20;

  // Reads chat_template.jinja, else the chat_template of tokenizer_config.json (of several the one
  // named "default"). A model without a template loads, and fails at Render. INVALID_ARGUMENT, with
  // file and line, for a template that does not compile.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_dir);

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  bool exists() const { return handle_ != nullptr; }

  // The prompt's text, for showing. To encode it, use RenderGuarded, or a user can write special
  // tokens.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     const RenderOptions& options) const;

  // The same text with guards against special tokens of `tokenizer` in the messages, for
  // Tokenizer::EncodeGuarded. Inside, a private character marks those places while the template
  // runs and is taken out again, so trimming and joining work as ever; a template that counts
  // characters, or looks for a special token's text in a message, sees the mark in such a message.
  absl::StatusOr<GuardedText> RenderGuarded(const Tokenizer& tokenizer,
                                            std::span<const ChatMessage> messages,
                                            const RenderOptions& options) const;

 private:
  ChatTemplate(MoeTextTemplate* handle, std::map<std::string, std::string> special_tokens);
  absl::StatusOr<GuardedText> RenderFor(const Tokenizer* tokenizer,
                                        std::span<const ChatMessage> messages,
                                        const RenderOptions& options) const;

  MoeTextTemplate* const handle_;  // owned; null without a template
  const std::map<std::string, std::string> special_tokens_;
};

// The whole way of a chat request: RenderGuarded and EncodeGuarded.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatTemplate& chat_template,
                                                std::span<const ChatMessage> messages,
                                                const RenderOptions& options);

}  // namespace moe::text

#endif  // GATEWAY_TEXT_CHAT_TEMPLATE_H_
