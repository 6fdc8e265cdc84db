#include "absl/strings/str_format.h"
#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/router.h"

namespace moe::kernels::cuda {

namespace {

constexpr int kRouteWarps = 4;  // rows of a block
constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / kWarpSize;

__device__ inline float QuietNan() { return __uint_as_float(0x7fc00000u); }

// A warp for each row; lane l has the experts l, l + 32, ..., kPerLane of them.
template <int kPerLane>
__global__ void __launch_bounds__(kRouteWarps* kWarpSize)
    RouteRows(const float* logits, int num_rows, int num_experts, int top_k, bool normalise_top_k,
              int32_t* expert_ids, float* weights, const int32_t* num_chosen) {
  AwaitEarlierKernels();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int row =
      static_cast<int>(blockIdx.x) * kRouteWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (row >= num_rows) return;
  if (num_chosen != nullptr && row >= *num_chosen) {
    if (lane < top_k) {
      expert_ids[int64_t{row} * top_k + lane] = num_experts;
      weights[int64_t{row} * top_k + lane] = 0.0f;
    }
    return;
  }
  const float* row_logits = logits + int64_t{row} * num_experts;
  float p[kPerLane];
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarpSize;
    p[i] = expert < num_experts ? row_logits[expert] : -INFINITY;
    max = fmaxf(max, p[i]);
  }
  max = WarpMax(max);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = expf(p[i] - max);  // 0 for experts that are not there, NaN where max is infinite
    sum += p[i];
  }
  sum = WarpSum(sum);
  int32_t id = lane;  // of the lane-th chosen expert
  float weight = QuietNan();
  if (sum == sum) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) p[i] /= sum;
    unsigned int taken = 0;  // bit i: the lane's i-th expert
    float total = 0.0f;
    for (int k = 0; k < top_k; ++k) {
      Found best = {0.0f, -1};
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        const int expert = lane + i * kWarpSize;
        if (expert < num_experts && (taken >> i & 1u) == 0) best = Better(best, {p[i], expert});
      }
      best = WarpBest(best);
      if (best.index % kWarpSize == lane) taken |= 1u << (best.index / kWarpSize);
      if (lane == k) {
        id = best.index;
        weight = best.value;
      }
      total += best.value;
    }
    if (normalise_top_k) weight /= total;
  }
  int rank = 0;  // of this lane's expert by id
  for (int k = 0; k < top_k; ++k) {
    if (__shfl_sync(kAllLanes, id, k) < id) ++rank;
  }
  if (lane < top_k) {
    expert_ids[int64_t{row} * top_k + rank] = id;
    weights[int64_t{row} * top_k + rank] = weight;
  }
}

// Block e finds its expert's pairs. It counts those of lower experts too, so that no block needs
// another's result.
__global__ void __launch_bounds__(kSortThreads)
    SortPairs(const int32_t* expert_ids, int num_pairs, int top_k, int32_t* offsets,
              ExpertRow* rows) {
  AwaitEarlierKernels();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpSize;
  const int warp = thread / kWarpSize;
  const int expert = static_cast<int>(blockIdx.x);
  int num_lower = 0;
  for (int i = thread; i < num_pairs; i += kSortThreads)
    num_lower += expert_ids[i] < expert ? 1 : 0;
  int next = BlockSum<kSortThreads>(num_lower);
  if (thread == 0) offsets[expert] = next;

  __shared__ int counts[kSortWarps];
  for (int first = 0; first < num_pairs; first += kSortThreads) {
    const int pair = first + thread;
    const bool mine = pair < num_pairs && expert_ids[pair] == expert;
    const unsigned int in_warp = __ballot_sync(kAllLanes, mine);
    if (lane == 0) counts[warp] = __popc(in_warp);
    __syncthreads();
    int at = next + __popc(in_warp & ((1u << lane) - 1u));
    for (int w = 0; w < kSortWarps; ++w) {
      if (w < warp) at += counts[w];
      next += counts[w];
    }
    if (mine) rows[at] = {pair / top_k, pair};
    __syncthreads();  // the next round writes counts
  }
  if (thread == 0 && expert + 1 == static_cast<int>(gridDim.x)) offsets[expert + 1] = next;
}

template <int kPerLane>
absl::Status LaunchRoute(const Gpu& gpu, const float* logits, int num_rows, int num_experts,
                         int top_k, bool normalise_top_k, int32_t* expert_ids, float* weights,
                         const int32_t* num_chosen) {
  return Launch(gpu, "router", RouteRows<kPerLane>,
                dim3(static_cast<unsigned int>(CeilDiv(num_rows, kRouteWarps))),
                kRouteWarps * kWarpSize, 0, logits, num_rows, num_experts, top_k, normalise_top_k,
                expert_ids, weights, num_chosen);
}

}  // namespace

absl::Status RouteTopK(const Gpu& gpu, const float* logits, int num_rows, int num_experts,
                       int top_k, bool normalise_top_k, int32_t* expert_ids, float* weights,
                       const int32_t* num_chosen) {
  if (num_experts > kMaxExperts || top_k < 1 || top_k > kMaxTopK || top_k > num_experts) {
    return absl::InvalidArgumentError(
        absl::StrFormat("router: %d of %d experts; the GPU's router takes up to %d of up to %d",
                        top_k, num_experts, kMaxTopK, kMaxExperts));
  }
  const auto launch = num_experts <= 64    ? LaunchRoute<2>
                      : num_experts <= 128 ? LaunchRoute<4>
                      : num_experts <= 256 ? LaunchRoute<8>
                                           : LaunchRoute<32>;
  return launch(gpu, logits, num_rows, num_experts, top_k, normalise_top_k, expert_ids, weights,
                num_chosen);
}

absl::Status SortByExpert(const Gpu& gpu, const int32_t* expert_ids, int num_rows, int top_k,
                          int num_experts, int32_t* offsets, ExpertRow* rows) {
  return Launch(gpu, "sorting by expert", SortPairs, dim3(static_cast<unsigned int>(num_experts)),
                kSortThreads, 0, expert_ids, num_rows * top_k, top_k, offsets, rows);
}

}  // namespace moe::kernels::cuda
