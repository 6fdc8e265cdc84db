// Whether a submitted sequence can be computed at all. Whatever passes can't harm the engine.
//
// Tested by tests/worker/engine/request_check_test.cc.
#ifndef MOE_WORKER_ENGINE_REQUEST_CHECK_H_
#define MOE_WORKER_ENGINE_REQUEST_CHECK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "proto/engine.pb.h"

namespace moe::engine {

struct RequestLimits {
  int max_context = 0;   // tokens of prompt and output together
  int vocab_size = 0;    // width of the logits
  int max_logprobs = 0;  // largest num_logprobs and num_prompt_logprobs
  int64_t kv_tokens_per_owner = 0;
};

// The tokens that end a sequence, sorted: the request's stop tokens and the model's `end_tokens`,
// without the latter if the request ignores them.
std::vector<int32_t> StopTokens(const v1::SamplingParams& sampling,
                                absl::Span<const int32_t> end_tokens);

// Why `submit` is refused, or nothing. `stop_tokens` are its StopTokens.
std::optional<v1::Rejected> CheckRequest(const v1::Submit& submit, const RequestLimits& limits,
                                         absl::Span<const int32_t> stop_tokens);

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_REQUEST_CHECK_H_
