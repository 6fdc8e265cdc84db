// JSON bodies of the completions and the chat API to checked structs. Pure.
//
// A parameter out of its bounds, of the wrong type or not supported is refused with the field
// named; fields that nobody here knows are ignored, as OpenAI's clients send new ones without
// notice.
//
// Tested by tests/gateway/openai/parse_test.cc, fuzzed by tests/fuzz/request_body_fuzz.cc.
#ifndef MOE_GATEWAY_OPENAI_PARSE_H_
#define MOE_GATEWAY_OPENAI_PARSE_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "gateway/openai/api_error.h"
#include "gateway/openai/request.h"

namespace moe::gateway {

struct ParseLimits {
  int32_t vocab_size = 0;  // width of the logits; token ids are below it
  int max_prompts = 2048;  // in one request
  int max_messages = 4096;
  int max_n = 128;
  int max_choices = 4096;  // prompts times n
  int max_logprobs = 20;
  int max_stop = 16;             // stop strings
  size_t max_stop_bytes = 1024;  // of one stop string
  int max_logit_bias = 1024;
  int max_stop_token_ids = 128;
};

// Fill `request`, or return what is wrong with the body (then `request` is unspecified).
std::optional<ApiError> ParseCompletionRequest(absl::string_view body, const ParseLimits& limits,
                                               CompletionRequest* request);
std::optional<ApiError> ParseChatRequest(absl::string_view body, const ParseLimits& limits,
                                         ChatRequest* request);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_PARSE_H_
