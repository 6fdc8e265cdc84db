// See job.h.
#include "gateway/serving/job.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gateway/journal/engine_view.h"

namespace moe::gateway {
namespace {

constexpr int64_t kDefaultCompletionTokens = 16;  // OpenAI's

ApiError PromptTooLong(absl::string_view field, absl::string_view count, int64_t max_context) {
  ApiError error = InvalidField(field, absl::StrCat("This model's context is ", max_context,
                                                    " tokens, of which at least one "
                                                    "is for the answer. The prompt has ",
                                                    count, " tokens."));
  error.code = "context_length_exceeded";
  return error;
}

ApiError FromText(absl::string_view field, const absl::Status& status) {
  if (absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
      absl::IsResourceExhausted(status)) {
    return InvalidField(field, std::string(status.message()));
  }
  return InternalError();
}

// Tokenizing megabytes only to refuse them would cost seconds. So a very long text is tried by its
// beginning first: if that is too long already, returns how many tokens it has at least.
std::optional<int64_t> SurelyTooLong(const text::Tokenizer& tokenizer, std::string_view text,
                                     int64_t max_context) {
  const size_t trial_bytes = static_cast<size_t>(max_context) * 16;
  if (text.size() <= 2 * trial_bytes) {
    return std::nullopt;
  }
  size_t end = trial_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80) {
    --end;
  }
  const absl::StatusOr<std::vector<int32_t>> trial =
      tokenizer.Encode(text.substr(0, end), false, true);
  // The last tokens may change with what follows.
  constexpr int64_t kUnsure = 64;
  if (trial.ok() && static_cast<int64_t>(trial->size()) > max_context + kUnsure) {
    return static_cast<int64_t>(trial->size()) - kUnsure;
  }
  return std::nullopt;
}

std::optional<ApiError> EncodeText(const text::Tokenizer& tokenizer, const std::string& text,
                                   const std::string& field, int64_t max_context,
                                   std::vector<int32_t>* tokens) {
  if (const auto count = SurelyTooLong(tokenizer, text, max_context); count.has_value()) {
    return PromptTooLong(field, absl::StrCat("more than ", *count), max_context);
  }
  absl::StatusOr<std::vector<int32_t>> encoded = tokenizer.Encode(text, true, true);
  if (!encoded.ok()) {
    return FromText(field, encoded.status());
  }
  *tokens = *std::move(encoded);
  if (tokens->empty()) {
    return InvalidField(field, absl::StrCat("'", field, "' has no tokens."));
  }
  return std::nullopt;
}

void FillSampling(const SamplingOptions& options, const JobContext& context, Job* job) {
  engine::v1::SamplingParams& sampling = job->sampling;
  sampling.set_temperature(static_cast<float>(options.temperature));
  sampling.set_top_p(static_cast<float>(options.top_p));
  sampling.set_top_k(options.top_k);
  sampling.set_min_p(static_cast<float>(options.min_p));
  sampling.set_frequency_penalty(static_cast<float>(options.frequency_penalty));
  sampling.set_presence_penalty(static_cast<float>(options.presence_penalty));
  sampling.set_repetition_penalty(static_cast<float>(options.repetition_penalty));
  sampling.set_seed(options.seed.value_or(context.drawn_seed));
  for (const auto& [token, bias] : options.logit_bias) {
    (*sampling.mutable_logit_bias())[token] = bias;
  }
  sampling.set_ignore_eos(options.ignore_eos);
  std::vector<int32_t> stop = options.stop_token_ids;
  if (!options.ignore_eos) {
    stop.insert(stop.end(), context.model->end_token_ids.begin(),
                context.model->end_token_ids.end());
  }
  std::sort(stop.begin(), stop.end());
  stop.erase(std::unique(stop.begin(), stop.end()), stop.end());
  // A tokenizer may know end tokens that the model's logits do not have.
  std::erase_if(
      stop, [&](int32_t id) { return id >= static_cast<int64_t>(context.welcome.vocab_size()); });
  sampling.mutable_stop_token_ids()->Add(stop.begin(), stop.end());
  sampling.set_num_logprobs(-1);
  sampling.set_num_prompt_logprobs(-1);
  job->n = options.n;
  job->stop = options.stop;
  job->min_tokens = options.min_tokens;
}

std::optional<ApiError> FillHead(Api api, const std::string& model, const JobContext& context,
                                 Job* job) {
  if (!model.empty() && model != context.model->name) {
    return ModelNotFound(model);
  }
  job->head.api = api;
  job->head.id = absl::StrCat(api == Api::kChat ? "chatcmpl-" : "cmpl-", context.request_id);
  job->head.created = absl::ToUnixSeconds(context.arrival);
  job->head.model = context.model->name;
  job->head.fingerprint = context.welcome.numerics_id();
  job->arrival = context.arrival;
  return std::nullopt;
}

// `wanted`: not given means all that is left.
std::optional<ApiError> LimitTokens(const std::string& field, std::optional<int64_t> wanted,
                                    int64_t max_context, JobPrompt* prompt) {
  const auto num_tokens = static_cast<int64_t>(prompt->tokens.size());
  if (num_tokens >= max_context) {
    return PromptTooLong(field, absl::StrCat(num_tokens), max_context);
  }
  const int64_t left = max_context - num_tokens;
  prompt->max_tokens = static_cast<uint32_t>(std::min(wanted.value_or(left), left));
  return std::nullopt;
}

}  // namespace

std::optional<ApiError> BuildCompletionJob(CompletionRequest request, const JobContext& context,
                                           Job* job) {
  if (std::optional<ApiError> error = FillHead(Api::kCompletions, request.model, context, job);
      error.has_value()) {
    return error;
  }
  const text::Tokenizer& tokenizer = *context.model->tokenizer;
  const int64_t max_context = SequenceLimit(context.welcome);
  FillSampling(request.sampling, context, job);
  job->streaming = request.streaming;
  job->echo = request.echo;
  job->with_logprobs = request.logprobs.has_value();
  if (job->with_logprobs) {
    job->sampling.set_num_logprobs(*request.logprobs);
    job->sampling.set_num_prompt_logprobs(request.echo ? *request.logprobs : -1);
  }
  const int64_t max_tokens = request.sampling.max_tokens.value_or(kDefaultCompletionTokens);
  job->prompt_only = max_tokens == 0;
  if (!request.sampling.max_tokens.has_value() && request.sampling.min_tokens > max_tokens) {
    return InvalidField("min_tokens", absl::StrCat("'min_tokens' (", request.sampling.min_tokens,
                                                   ") is more than 'max_tokens', which is ",
                                                   max_tokens, " when it is not given."));
  }

  job->prompts.resize(request.prompts.size());
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    Prompt& source = request.prompts[i];
    JobPrompt& prompt = job->prompts[i];
    const std::string field =
        request.prompts.size() == 1 ? "prompt" : absl::StrCat("prompt[", i, "]");
    if (source.is_tokens) {
      prompt.tokens = std::move(source.tokens);
    } else if (std::optional<ApiError> error =
                   EncodeText(tokenizer, source.text, field, max_context, &prompt.tokens);
               error.has_value()) {
      return error;
    }
    if (std::optional<ApiError> error =
            LimitTokens(field, std::max<int64_t>(max_tokens, 1), max_context, &prompt);
        error.has_value()) {
      return error;
    }
    if (!request.echo) {
      continue;
    }
    if (source.is_tokens) {
      absl::StatusOr<std::string> text = tokenizer.Decode(prompt.tokens, false);
      if (!text.ok()) {
        return FromText(field, text.status());
      }
      prompt.echo_text = *std::move(text);
    } else {
      prompt.echo_text = std::move(source.text);
    }
  }
  return std::nullopt;
}

std::optional<ApiError> BuildChatJob(ChatRequest request, const JobContext& context, Job* job) {
  if (std::optional<ApiError> error = FillHead(Api::kChat, request.model, context, job);
      error.has_value()) {
    return error;
  }
  const int64_t max_context = SequenceLimit(context.welcome);
  FillSampling(request.sampling, context, job);
  job->streaming = request.streaming;
  job->with_logprobs = request.logprobs.has_value();
  if (job->with_logprobs) {
    job->sampling.set_num_logprobs(*request.logprobs);
  }
  std::vector<text::ChatMessage> messages;
  messages.reserve(request.messages.size());
  for (ChatMessage& message : request.messages) {
    messages.push_back(
        {std::move(message.role), std::move(message.content), std::move(message.name)});
  }
  const absl::StatusOr<text::GuardedText> prompt =
      context.model->chat_template->RenderGuarded(*context.model->tokenizer, messages, {});
  if (!prompt.ok()) {
    return FromText("messages", prompt.status());
  }
  if (const auto count = SurelyTooLong(*context.model->tokenizer, prompt->text, max_context);
      count.has_value()) {
    return PromptTooLong("messages", absl::StrCat("more than ", *count), max_context);
  }
  absl::StatusOr<std::vector<int32_t>> tokens = context.model->tokenizer->EncodeGuarded(*prompt);
  if (!tokens.ok()) {
    return FromText("messages", tokens.status());
  }
  if (tokens->empty()) {
    return InvalidField("messages", "The messages give a prompt without tokens.");
  }
  job->prompts.resize(1);
  job->prompts[0].tokens = *std::move(tokens);
  return LimitTokens("messages", request.sampling.max_tokens, max_context, &job->prompts[0]);
}

}  // namespace moe::gateway
