// What a client asks for, checked and without JSON.
#ifndef MOE_GATEWAY_OPENAI_REQUEST_H_
#define MOE_GATEWAY_OPENAI_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moe::gateway {

// A prompt is text or token ids.
struct Prompt {
  bool is_tokens = false;
  std::string text;
  std::vector<int32_t> tokens;
};

struct SamplingOptions {
  int n = 1;                          // choices per prompt
  std::optional<int64_t> max_tokens;  // of each choice; not given: see the runner
  int64_t min_tokens = 0;
  double temperature = 1;  // 0 is greedy
  double top_p = 1;        // 1 is off
  int32_t top_k = 0;       // 0 is off
  double min_p = 0;        // 0 is off
  double frequency_penalty = 0;
  double presence_penalty = 0;
  double repetition_penalty = 1;                      // 1 is off
  std::optional<uint64_t> seed;                       // not given: drawn
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id, added to its logit
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop;  // not empty strings
};

struct StreamOptions {
  bool stream = false;
  bool include_usage = false;           // a last chunk with the usage and no choices
  bool continuous_usage_stats = false;  // the usage so far in every chunk
};

struct CompletionRequest {
  std::string model;            // empty: the one that is served
  std::vector<Prompt> prompts;  // at least one
  SamplingOptions sampling;
  StreamOptions streaming;
  bool echo = false;
  std::optional<int> logprobs;  // how many of the likeliest tokens beside the drawn one
};

struct ChatMessage {
  std::string role;  // system, user or assistant
  std::string content;
  std::optional<std::string> name;
};

struct ChatRequest {
  std::string model;                  // empty: the one that is served
  std::vector<ChatMessage> messages;  // at least one
  SamplingOptions sampling;
  StreamOptions streaming;
  std::optional<int> logprobs;  // set when "logprobs" is true: the value of top_logprobs
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_OPENAI_REQUEST_H_
