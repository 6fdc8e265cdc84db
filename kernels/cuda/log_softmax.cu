#include "kernels/cuda/log_softmax.h"
#include "kernels/cuda/reduce.cuh"

namespace moe::kernels::cuda {

namespace {

constexpr int kThreads = 1024;

// A block for each row.
__global__ void __launch_bounds__(kThreads)
    RowStats(const float* logits, int vocab_size, LogitStats* stats) {
  AwaitEarlierKernels();
  const float* row = logits + int64_t{blockIdx.x} * vocab_size;
  const int thread = static_cast<int>(threadIdx.x);
  Found best = {0.0f, -1};
  for (int i = thread; i < vocab_size; i += kThreads) {
    // The lane's ids ascend, so of equal values the first stays. A NaN is never larger.
    if (row[i] > (best.index < 0 ? -INFINITY : best.value)) best = {row[i], i};
  }
  best = BlockBest<kThreads>(best);
  const float max = best.index < 0 ? -INFINITY : best.value;
  float sum = 0.0f;
  // Infinite maxima and NaN make the sum NaN.
  for (int i = thread; i < vocab_size; i += kThreads) sum += expf(row[i] - max);
  sum = BlockSum<kThreads>(sum);
  if (thread != 0) return;
  const bool finite = sum > 0.0f;
  LogitStats& out = stats[blockIdx.x];
  out.log_sum_exp = finite ? log(static_cast<double>(sum)) + static_cast<double>(max)
                           : static_cast<double>(__uint_as_float(0x7fc00000u));
  out.max = max;
  out.token = finite ? best.index : -1;
  out.finite = finite ? 1 : 0;
}

__device__ TokenLogprob LogprobOf(int token, float logit, const LogitStats& stats) {
  return {token, static_cast<float>(static_cast<double>(logit) - stats.log_sum_exp)};
}

// A block for each row; one pass over the row for each of the num_top.
__global__ void __launch_bounds__(kThreads)
    RowLogprobs(const float* logits, int vocab_size, const LogitStats* all_stats,
                const int32_t* tokens, int num_top, TokenLogprob* chosen, TokenLogprob* top) {
  AwaitEarlierKernels();
  const float* row = logits + int64_t{blockIdx.x} * vocab_size;
  const LogitStats& stats = all_stats[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x);
  TokenLogprob* row_top = top + int64_t{blockIdx.x} * num_top;
  if (stats.finite == 0) {
    if (thread == 0) chosen[blockIdx.x] = {-1, 0.0f};
    for (int k = thread; k < num_top; k += kThreads) row_top[k] = {-1, 0.0f};
    return;
  }
  if (thread == 0) {
    const int token = tokens != nullptr ? tokens[blockIdx.x] : stats.token;
    chosen[blockIdx.x] = LogprobOf(token, row[token], stats);
  }
  Found last = {INFINITY, -1};  // what comes next is smaller, or equal with a higher id
  for (int k = 0; k < num_top; ++k) {
    Found best = {0.0f, -1};
    for (int i = thread; i < vocab_size; i += kThreads) {
      const float value = row[i];
      const bool comes_later = value < last.value || (value == last.value && i > last.index);
      if (comes_later && value > (best.index < 0 ? -INFINITY : best.value)) best = {value, i};
    }
    best = BlockBest<kThreads>(best);
    if (best.index < 0) {  // only banned tokens are left
      for (int rest = k + thread; rest < num_top; rest += kThreads) row_top[rest] = {-1, 0.0f};
      return;
    }
    if (thread == 0) row_top[k] = LogprobOf(best.index, best.value, stats);
    last = best;
  }
}

}  // namespace

absl::Status ComputeLogitStats(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                               LogitStats* stats) {
  return Launch(gpu, "statistics of logits", RowStats, dim3(static_cast<unsigned int>(num_rows)),
                kThreads, 0, logits, vocab_size, stats);
}

absl::Status ComputeLogprobs(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                             const LogitStats* stats, const int32_t* tokens, int num_top,
                             TokenLogprob* chosen, TokenLogprob* top) {
  return Launch(gpu, "log-probabilities", RowLogprobs, dim3(static_cast<unsigned int>(num_rows)),
                kThreads, 0, logits, vocab_size, stats, tokens, num_top, chosen, top);
}

}  // namespace moe::kernels::cuda
