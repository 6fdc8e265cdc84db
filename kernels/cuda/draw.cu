#include "absl/strings/str_format.h"
#include "kernels/cuda/draw.h"
#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/reduce.cuh"

namespace moe::kernels::cuda {

namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kPerLane = 16;  // neighbouring ids
constexpr int kRun = kWarpSize * kPerLane;
constexpr int kMaxRuns = kMaxVocab / kRun;

// The sum over the lanes up to this one.
__device__ double InclusiveSum(double value, int lane) {
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const double other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

// A row's weights.
struct Weights {
  __device__ double operator[](int i) const {
    return i < vocab_size ? static_cast<double>(expf((logits[i] - max) / temperature)) : 0.0;
  }
  // Of kPerLane ids from `first` on.
  __device__ double Sum(int first) const {
    double sum = 0.0;
    for (int i = 0; i < kPerLane; ++i) sum += (*this)[first + i];
    return sum;
  }

  const float* logits;
  int vocab_size;
  float max;
  float temperature;
};

// A block for each row. Runs of kRun ids are summed by one warp each; one warp then finds the run,
// the lane and the id in which the sum passes the target.
__global__ void __launch_bounds__(kThreads)
    DrawRows(const float* logits, int vocab_size, const LogitStats* all_stats, const Draw* draws,
             int32_t* tokens) {
  __shared__ double runs[kMaxRuns];
  AwaitEarlierKernels();
  const LogitStats& stats = all_stats[blockIdx.x];
  const Draw draw = draws[blockIdx.x];
  if (stats.finite == 0 || draw.temperature == 0.0f) {
    if (threadIdx.x == 0) tokens[blockIdx.x] = stats.token;  // -1 if not finite
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const Weights weights = {logits + int64_t{blockIdx.x} * vocab_size, vocab_size, stats.max,
                           draw.temperature};
  const int num_runs = (vocab_size + kRun - 1) / kRun;
  for (int run = warp; run < num_runs; run += kWarps) {
    const double sum = InclusiveSum(weights.Sum(run * kRun + lane * kPerLane), lane);
    if (lane == kWarpSize - 1) runs[run] = sum;
  }
  __syncthreads();
  if (warp != 0) return;
  double total = 0.0;
  for (int run = 0; run < num_runs; ++run) total += runs[run];
  const double target = draw.uniform * total;
  double before = 0.0;
  int run = 0;
  for (; run + 1 < num_runs && before + runs[run] <= target; ++run) before += runs[run];

  const int first = run * kRun + lane * kPerLane;
  const double sum = weights.Sum(first);
  const double end = before + InclusiveSum(sum, lane);
  const unsigned int passed = __ballot_sync(kAllLanes, end > target);
  const unsigned int positive = __ballot_sync(kAllLanes, sum > 0.0);
  // Rounding may have left the target at the very end: then the last id of the run with a weight.
  const unsigned int usable = passed & positive;
  const int drawn_lane = usable != 0 ? __ffs(static_cast<int>(usable)) - 1
                                     : kWarpSize - 1 - __clz(static_cast<int>(positive));
  // A run without any weight can be the last one only; the greedy token is as good as any there.
  if (positive == 0) {
    if (lane == 0) tokens[blockIdx.x] = stats.token;
    return;
  }
  if (lane != drawn_lane) return;
  double at = end - sum;
  int token = -1;
  for (int i = 0; i < kPerLane; ++i) {
    const double weight = weights[first + i];
    if (weight <= 0.0) continue;
    at += weight;
    token = first + i;
    if (at > target) break;
  }
  tokens[blockIdx.x] = token;
}

}  // namespace

absl::Status DrawTokens(const Gpu& gpu, const float* logits, int num_rows, int vocab_size,
                        const LogitStats* stats, const Draw* draws, int32_t* tokens) {
  if (vocab_size > kMaxVocab) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "drawing: a vocabulary of %d; the GPU's draw takes up to %d", vocab_size, kMaxVocab));
  }
  return Launch(gpu, "drawing tokens", DrawRows, dim3(static_cast<unsigned int>(num_rows)),
                kThreads, 0, logits, vocab_size, stats, draws, tokens);
}

}  // namespace moe::kernels::cuda
