// Sums and maxima over a warp and a block, each in one fixed order. Included by .cu files only.
#ifndef MOE_KERNELS_CUDA_REDUCE_CUH_
#define MOE_KERNELS_CUDA_REDUCE_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace moe::kernels::cuda {

// Every lane gets the sum: lane i adds lane i ^ 16, then i ^ 8, ... i ^ 1. Addition commutes, so
// all lanes have the same bits.
template <typename T>
__device__ inline T WarpSum(T value) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// A NaN counts for nothing.
__device__ inline float WarpMax(float value) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Every thread of the block gets the sum of the warps' sums, in ascending order of warps.
template <int kThreads, typename T>
__device__ inline T BlockSum(T value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ T sums[kWarps];
  value = WarpSum(value);
  if (threadIdx.x % kWarpSize == 0) sums[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp];
  __syncthreads();  // the next call writes here
  return sum;
}

template <int kThreads>
__device__ inline float BlockMax(float value) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ float maxima[kWarps];
  value = WarpMax(value);
  if (threadIdx.x % kWarpSize == 0) maxima[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float max = maxima[0];
  for (int warp = 1; warp < kWarps; ++warp) max = fmaxf(max, maxima[warp]);
  __syncthreads();
  return max;
}

// A value and where it was found.
struct Found {
  float value;
  int index;  // -1: nothing found
};

// The larger value; the lower index of equal ones.
__device__ inline Found Better(Found a, Found b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.index < b.index ? a : b;
}

__device__ inline Found WarpBest(Found found) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Found other = {__shfl_xor_sync(kAllLanes, found.value, distance),
                         __shfl_xor_sync(kAllLanes, found.index, distance)};
    found = Better(found, other);
  }
  return found;
}

template <int kThreads>
__device__ inline Found BlockBest(Found found) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ float values[kWarps];
  __shared__ int indices[kWarps];
  found = WarpBest(found);
  if (threadIdx.x % kWarpSize == 0) {
    values[threadIdx.x / kWarpSize] = found.value;
    indices[threadIdx.x / kWarpSize] = found.index;
  }
  __syncthreads();
  Found best = {values[0], indices[0]};
  for (int warp = 1; warp < kWarps; ++warp) best = Better(best, {values[warp], indices[warp]});
  __syncthreads();
  return best;
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_REDUCE_CUH_
