// From logits to a greedy token and log-probabilities on the GPU. The CPU's are
// kernels/log_softmax.h and worker/engine/sampler.h.
//
// Left to the host, which then gets the row of logits: penalties, logit_bias, min_tokens, top-k,
// top-p and min-p. Draws from the whole vocabulary: draw.h. Tested by
// tests/kernels/cuda/log_softmax_test.cc.
#ifndef MOE_KERNELS_CUDA_LOG_SOFTMAX_H_
#define MOE_KERNELS_CUDA_LOG_SOFTMAX_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

// Of one row of logits.
struct LogitStats {
  double log_sum_exp;  // log(sum(exp(x - max))) + max, the logarithm in double; NaN if not finite
  float max;           // NaN left out
  int32_t token;       // the lowest id with the largest logit, the greedy choice; -1 if not finite
  int32_t finite;      // 1: no NaN and no +infinity in the row, and at least one finite value
};

// The sum has one order for each vocab_size.
//   logits  [num_rows, vocab_size] fp32; -infinity is allowed (a banned token)
//   stats   [num_rows]
absl::Status ComputeLogitStats(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                               LogitStats* stats);

// A token and its log-probability.
struct TokenLogprob {
  int32_t token;  // -1: none
  float logprob;
};

// Log-probabilities as float(double(logit) - log_sum_exp), from raw logits and their stats.
//   tokens  [num_rows], or nullptr: the greedy ones of `stats`
//   chosen  [num_rows]: those tokens'
//   top     [num_rows, num_top]: the likeliest first, ties by lowest id; -infinity is left out
// A row that is not finite gets token -1 everywhere. REQUIRES: tokens are in the vocabulary.
absl::Status ComputeLogprobs(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                             const LogitStats* stats, const int32_t* tokens, int num_top,
                             TokenLogprob* chosen, TokenLogprob* top);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LOG_SOFTMAX_H_
