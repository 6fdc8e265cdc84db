// Drawing tokens on the GPU, from all of the vocabulary. worker/engine/sampler.h has the whole
// rules. Tested by tests/kernels/cuda/draw_test.cc.
#ifndef MOE_KERNELS_CUDA_DRAW_H_
#define MOE_KERNELS_CUDA_DRAW_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/log_softmax.h"

namespace moe::kernels::cuda {

struct Draw {
  double uniform;     // in [0, 1): UniformDraw of sampler.h, which the host computes
  float temperature;  // 0: greedy
};

inline constexpr int kMaxVocab = 1 << 19;

// tokens[t] is the first id at which the sum of the weights exp((logit - max) / temperature)
// exceeds uniform times the sum of all. The sums are in double, in one order for each vocab_size.
//   logits  [num_rows, vocab_size] fp32
//   stats   [num_rows], of ComputeLogitStats
//   draws   [num_rows]
//   tokens  [num_rows]; -1 for a row that is not finite
// InvalidArgument for a vocabulary above kMaxVocab.
absl::Status DrawTokens(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                        const LogitStats* stats, const Draw* draws, int32_t* tokens);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_DRAW_H_
