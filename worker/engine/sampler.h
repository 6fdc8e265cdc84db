// Draws the next token of a sequence from its logits.
//
// Order of operations, as in vLLM and transformers: log-probabilities are taken from the raw logits
// first; then logit_bias, repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858:
// over prompt and generated tokens), frequency and presence penalty (OpenAI: over generated
// tokens), stop tokens banned before min_tokens; temperature 0 (below 1e-5) takes the largest
// logit; else temperature, top-k, top-p (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751),
// min-p (relative to the likeliest), and a draw. Ties go to the lowest id everywhere.
//
// The draw uses Philox4x32-10 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) keyed
// by (seed, choice, position), so that it is the same in any batch and after a failover. It walks
// the weights in order of id; with top-k, likeliest first.
//
// Tested by tests/worker/engine/sampler_test.cc.
#ifndef MOE_WORKER_ENGINE_SAMPLER_H_
#define MOE_WORKER_ENGINE_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/context.h"
#include "proto/engine.pb.h"

namespace moe::engine {

// Log-probabilities of one position, from raw logits.
struct Logprobs {
  float chosen = 0;
  std::vector<std::pair<int32_t, float>> top;  // likeliest first, ties by lowest id
};

struct Sample {
  int32_t token = 0;
  Logprobs logprobs;  // empty unless asked for
};

// A uniform number in [0, 1), a multiple of 2^-53.
double UniformDraw(uint64_t seed, uint32_t choice, uint32_t position);

// A draw that needs nothing but the logits and these: from all of the vocabulary, nothing adjusted.
struct PlainDraw {
  double uniform = 0;
  float temperature = 0;  // 0: the largest logit
};
// What to draw with after `num_generated` tokens, where SampleToken would not look at more either.
// A function of its arguments alone, so a request is drawn in the same way wherever it runs.
std::optional<PlainDraw> AsPlainDraw(const v1::SamplingParams& params, size_t num_generated,
                                     int vocab_size);

// Log-probability of `token` and the num_top likeliest. `logits` [vocab_size] fp32.
// InvalidArgument when the logits are not finite.
absl::StatusOr<Logprobs> ComputeLogprobs(const kernels::Context& context,
                                         absl::Span<const float> logits, int32_t token,
                                         int num_top);

// Draws the token at generated position `generated.size()`.
//   logits     [vocab_size] fp32 raw logits; changed in place
//   prompt, generated  the sequence so far
// InvalidArgument when the logits hold a NaN or +infinity, or when nothing can be drawn.
absl::StatusOr<Sample> SampleToken(const kernels::Context& context, absl::Span<float> logits,
                                   const v1::SamplingParams& params,
                                   absl::Span<const int32_t> prompt,
                                   absl::Span<const int32_t> generated);

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_SAMPLER_H_
