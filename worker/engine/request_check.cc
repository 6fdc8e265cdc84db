#include "worker/engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"

namespace moe::engine {
namespace {

using Problem = std::optional<std::string>;

// The first problem of a list.
Problem First(std::initializer_list<Problem> problems) {
  for (const Problem& problem : problems) {
    if (problem.has_value()) return problem;
  }
  return std::nullopt;
}

// False for NaN.
Problem InRange(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return std::nullopt;
  return absl::StrFormat("%s must be in [%g, %g], not %g", name, low, high, value);
}

Problem Finite(const char* name, double value) {
  if (std::isfinite(value)) return std::nullopt;
  return absl::StrFormat("%s must be a finite number", name);
}

template <typename Tokens>
Problem InVocabulary(const char* name, const Tokens& tokens, int vocab_size) {
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      return absl::StrFormat("%s holds token %d, outside the vocabulary of %d", name, token,
                             vocab_size);
    }
  }
  return std::nullopt;
}

Problem CheckLogitBias(const v1::SamplingParams& sampling, int vocab_size) {
  for (const auto& [token, bias] : sampling.logit_bias()) {
    if (token < 0 || token >= vocab_size) {
      return absl::StrFormat("logit_bias names token %d, outside the vocabulary of %d", token,
                             vocab_size);
    }
    if (!std::isfinite(bias)) return "logit_bias must be finite numbers";
  }
  return std::nullopt;
}

Problem CheckSampling(const v1::SamplingParams& sampling, const RequestLimits& limits) {
  Problem problem = First({
      InRange("temperature", sampling.temperature(), 0, 1e6),
      InRange("top_p", sampling.top_p(), 0, 1),
      InRange("min_p", sampling.min_p(), 0, 1),
      Finite("frequency_penalty", sampling.frequency_penalty()),
      Finite("presence_penalty", sampling.presence_penalty()),
      Finite("repetition_penalty", sampling.repetition_penalty()),
      CheckLogitBias(sampling, limits.vocab_size),
      InVocabulary("stop_token_ids", sampling.stop_token_ids(), limits.vocab_size),
      InRange("num_logprobs", sampling.num_logprobs(), -1, limits.max_logprobs),
      InRange("num_prompt_logprobs", sampling.num_prompt_logprobs(), -1, limits.max_logprobs),
  });
  if (problem.has_value()) return problem;
  if (sampling.top_p() <= 0) return "top_p must be above 0";
  if (sampling.top_k() < 0) return "top_k must not be negative";
  if (sampling.repetition_penalty() <= 0) return "repetition_penalty must be above 0";
  if (sampling.max_tokens() == 0) return "max_tokens must be at least 1";
  if (sampling.min_tokens() > sampling.max_tokens()) {
    return absl::StrFormat("min_tokens is %d, more than max_tokens, %d", sampling.min_tokens(),
                           sampling.max_tokens());
  }
  return std::nullopt;
}

// Whether the sequence can go on after the tokens that it has.
Problem CheckGenerated(const v1::Submit& submit, absl::Span<const int32_t> stop_tokens) {
  const auto& generated = submit.generated_tokens();
  if (static_cast<uint64_t>(generated.size()) >= submit.sampling().max_tokens() &&
      !generated.empty()) {
    return absl::StrFormat("it already has %d generated tokens of at most %d", generated.size(),
                           submit.sampling().max_tokens());
  }
  for (const int32_t token : generated) {
    if (std::binary_search(stop_tokens.begin(), stop_tokens.end(), token)) {
      return absl::StrFormat("its generated tokens already hold the stop token %d", token);
    }
  }
  return std::nullopt;
}

v1::Rejected Rejection(const v1::Submit& submit, v1::Rejected::Reason reason, std::string message) {
  v1::Rejected rejected;
  rejected.set_request(submit.request());
  rejected.set_reason(reason);
  rejected.set_message(std::move(message));
  return rejected;
}

}  // namespace

std::vector<int32_t> StopTokens(const v1::SamplingParams& sampling,
                                absl::Span<const int32_t> end_tokens) {
  std::vector<int32_t> stops(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  if (sampling.ignore_eos()) {
    std::erase_if(stops, [&](int32_t token) {
      return std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end();
    });
  } else {
    stops.insert(stops.end(), end_tokens.begin(), end_tokens.end());
  }
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  return stops;
}

std::optional<v1::Rejected> CheckRequest(const v1::Submit& submit, const RequestLimits& limits,
                                         absl::Span<const int32_t> stop_tokens) {
  const int64_t num_prompt = submit.prompt_tokens_size();
  if (num_prompt == 0) return Rejection(submit, v1::Rejected::INVALID, "the prompt is empty");
  // Before the tokens are looked at, because it names the counts that people ask for.
  if (num_prompt + 1 > limits.max_context) {
    return Rejection(submit, v1::Rejected::TOO_LONG,
                     absl::StrFormat("the prompt has %d tokens, but the context holds %d, of which "
                                     "at least one is generated",
                                     num_prompt, limits.max_context));
  }
  const Problem problem = First({
      InVocabulary("the prompt", submit.prompt_tokens(), limits.vocab_size),
      InVocabulary("generated_tokens", submit.generated_tokens(), limits.vocab_size),
      CheckSampling(submit.sampling(), limits),
      CheckGenerated(submit, stop_tokens),
  });
  if (problem.has_value()) return Rejection(submit, v1::Rejected::INVALID, *problem);
  const int64_t num_total =
      std::min<int64_t>(num_prompt + submit.sampling().max_tokens(), limits.max_context);
  if (num_total > limits.kv_tokens_per_owner) {
    return Rejection(
        submit, v1::Rejected::TOO_LONG,
        absl::StrFormat("prompt and output need a KV cache of %d tokens, but it holds %d",
                        num_total, limits.kv_tokens_per_owner));
  }
  if (num_prompt + submit.generated_tokens_size() + 1 > limits.max_context) {
    return Rejection(submit, v1::Rejected::INVALID,
                     "its generated tokens already fill the context");
  }
  return std::nullopt;
}

}  // namespace moe::engine
