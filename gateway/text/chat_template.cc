// See chat_template.h.
#include "gateway/text/chat_template.h"

#include <array>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "gateway/text/model_text_config.h"
#include "gateway/text/moe_text.h"
#include "gateway/text/rust_call.h"

namespace moe::text {
namespace {

constexpr char kTemplateFile[] = "chat_template.jinja";
constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr std::array kReserved = {"messages", "tools", "documents", "add_generation_prompt"};

// Offsets that the crate allocated; released with this object.
struct RustOffsets {
  RustOffsets() = default;
  ~RustOffsets() { moe_text_offsets_free(&offsets); }
  RustOffsets(const RustOffsets&) = delete;
  RustOffsets& operator=(const RustOffsets&) = delete;

  MoeTextOffsets offsets = {};
};

MoeTextTime CivilTime(absl::Time now, absl::TimeZone zone) {
  const absl::CivilSecond civil = absl::ToCivilSecond(now, zone);
  const absl::CivilDay day(civil);
  return {.year = static_cast<int32_t>(civil.year()),
          .month = civil.month(),
          .day = civil.day(),
          .hour = civil.hour(),
          .minute = civil.minute(),
          .second = civil.second(),
          // absl counts from Monday, C from Sunday.
          .week_day = (static_cast<int32_t>(absl::GetWeekday(day)) + 1) % 7,
          .year_day = absl::GetYearDay(day)};
}

MoeTextVariable StringVariable(const std::string& name, const std::string& value, bool from_user) {
  return {.name = View(name),
          .string_value = View(value),
          .int_value = 0,
          .double_value = 0,
          .kind = MOE_TEXT_STRING,
          .from_user = from_user};
}

MoeTextVariable UserVariable(const std::string& name, const TemplateValue& value) {
  MoeTextVariable variable = StringVariable(name, name, /*from_user=*/true);
  if (const auto* text = std::get_if<std::string>(&value)) {
    variable.string_value = View(*text);
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    variable.kind = MOE_TEXT_BOOL;
    variable.int_value = *flag ? 1 : 0;
  } else if (const auto* integer = std::get_if<int64_t>(&value)) {
    variable.kind = MOE_TEXT_INT;
    variable.int_value = *integer;
  } else if (const auto* number = std::get_if<double>(&value)) {
    variable.kind = MOE_TEXT_DOUBLE;
    variable.double_value = *number;
  }
  return variable;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  absl::StatusOr<TextConfig> config = ReadTextConfig(model_dir);
  if (!config.ok()) return config.status();
  std::string file = kTemplateFile;
  absl::StatusOr<std::string> source = ReadModelFile(model_dir, file, kMaxFileBytes);
  if (absl::IsNotFound(source.status()) && config->chat_template.has_value()) {
    file = kConfigFile;
    source = *config->chat_template;
  }
  MoeTextTemplate* handle = nullptr;
  if (source.ok()) {
    RustBytes error;
    const int32_t code = moe_text_template_new(View(*source), &handle, error.out());
    if (code != 0) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", error.ToString()));
    }
  } else if (!absl::IsNotFound(source.status())) {
    return source.status();
  }
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(handle, std::move(config->named_tokens)));
}

ChatTemplate::ChatTemplate(MoeTextTemplate* handle,
                           std::map<std::string, std::string> special_tokens)
    : handle_(handle), special_tokens_(std::move(special_tokens)) {}

ChatTemplate::~ChatTemplate() { moe_text_template_free(handle_); }

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                 const RenderOptions& options) const {
  absl::StatusOr<GuardedText> rendered = RenderFor(nullptr, messages, options);
  if (!rendered.ok()) return rendered.status();
  return std::move(rendered->text);
}

absl::StatusOr<GuardedText> ChatTemplate::RenderGuarded(const Tokenizer& tokenizer,
                                                        std::span<const ChatMessage> messages,
                                                        const RenderOptions& options) const {
  return RenderFor(&tokenizer, messages, options);
}

absl::StatusOr<GuardedText> ChatTemplate::RenderFor(const Tokenizer* tokenizer,
                                                    std::span<const ChatMessage> messages,
                                                    const RenderOptions& options) const {
  if (handle_ == nullptr) {
    return absl::NotFoundError(
        "the model has no chat template (neither chat_template.jinja nor a chat_template in "
        "tokenizer_config.json)");
  }
  std::vector<MoeTextMessage> views;
  views.reserve(messages.size());
  for (const ChatMessage& message : messages) {
    views.push_back({.role = View(message.role),
                     .content = View(message.content),
                     .name = message.name.has_value() ? View(*message.name) : MoeTextView{},
                     .has_name = message.name.has_value()});
  }
  std::vector<MoeTextVariable> variables;
  variables.reserve(special_tokens_.size());
  for (const auto& [name, text] : special_tokens_) {
    variables.push_back(StringVariable(name, text, /*from_user=*/false));
  }
  for (const auto& [name, value] : options.extra) {
    bool reserved = special_tokens_.contains(name);
    for (const char* key : kReserved) reserved = reserved || name == key;
    if (reserved) {
      return absl::InvalidArgumentError(
          absl::StrCat("the chat template's variable '", name, "' cannot be replaced"));
    }
    variables.push_back(UserVariable(name, value));
  }
  const std::string add_generation_prompt = "add_generation_prompt";
  variables.push_back(
      UserVariable(add_generation_prompt, TemplateValue(options.add_generation_prompt)));

  const MoeTextTime now = CivilTime(options.now, options.time_zone);
  const MoeTextLimits limits = {.fuel = options.fuel,
                                .fuel_per_message = options.fuel_per_message,
                                .recursion = options.max_recursion,
                                .output_bytes = options.max_output_bytes};
  RustBytes text, error;
  RustOffsets guards;
  const int32_t code = moe_text_render(
      handle_, tokenizer == nullptr ? nullptr : tokenizer->handle_, views.data(), views.size(),
      variables.data(), variables.size(), &now, &limits, text.out(), &guards.offsets, error.out());
  if (code != 0) return ToStatus(code, error);
  GuardedText result{.text = text.ToString(), .guards = {}};
  if (guards.offsets.size > 0) {
    result.guards.assign(guards.offsets.data, guards.offsets.data + guards.offsets.size);
  }
  return result;
}

absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatTemplate& chat_template,
                                                std::span<const ChatMessage> messages,
                                                const RenderOptions& options) {
  absl::StatusOr<GuardedText> prompt = chat_template.RenderGuarded(tokenizer, messages, options);
  if (!prompt.ok()) return prompt.status();
  return tokenizer.EncodeGuarded(*prompt);
}

}  // namespace moe::text
