// From a parsed request to what the engine is asked: tokens, limits and sampling parameters. Pure
// but for the tokenizer.
//
// Tested by tests/gateway/serving/job_test.cc.
#ifndef MOE_GATEWAY_SERVING_JOB_H_
#define MOE_GATEWAY_SERVING_JOB_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gateway/journal/generation.h"
#include "gateway/openai/api_error.h"
#include "gateway/openai/request.h"
#include "gateway/openai/response.h"
#include "gateway/serving/served_model.h"
#include "proto/engine.pb.h"

namespace moe::gateway {

struct JobPrompt {
  std::vector<int32_t> tokens;
  std::string echo_text;    // only with echo
  uint32_t max_tokens = 0;  // clipped to the context
};

// One HTTP request, ready to run. Choice i is choice (i % n) of prompt (i / n).
struct Job {
  ResponseHead head;
  absl::Time arrival;
  std::vector<JobPrompt> prompts;
  int n = 1;
  engine::v1::SamplingParams sampling;  // without choice and max_tokens
  std::vector<std::string> stop;
  int64_t min_tokens = 0;
  StreamOptions streaming;
  bool echo = false;
  bool with_logprobs = false;
  // Echo without generation: what the engine must generate to score the prompt is not shown.
  bool prompt_only = false;

  int num_choices() const { return static_cast<int>(prompts.size()) * n; }
};

// What a job takes from the outside world beside the request.
struct JobContext {
  const ServedModel* model = nullptr;
  engine::v1::Welcome welcome;
  absl::Time arrival;
  uint64_t drawn_seed = 0;  // used when the request has none
  std::string request_id;   // the last part of the answer's id
};

// Fill `job`, or return what is wrong (then `job` is unspecified).
std::optional<ApiError> BuildCompletionJob(CompletionRequest request, const JobContext& context,
                                           Job* job);
std::optional<ApiError> BuildChatJob(ChatRequest request, const JobContext& context, Job* job);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_SERVING_JOB_H_
