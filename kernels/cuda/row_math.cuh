// The arithmetic of rows that more than one kernel does, with the same bits. Included by .cu files
// only.
#ifndef MOE_KERNELS_CUDA_ROW_MATH_CUH_
#define MOE_KERNELS_CUDA_ROW_MATH_CUH_

#include "kernels/attention.h"
#include "kernels/cuda/reduce.cuh"

namespace moe::kernels::cuda {

inline constexpr int kRowThreads = 256;

// 1 / sqrt(mean of squares + epsilon) of a row, by a block of kRowThreads threads.
__device__ inline float InverseRms(const float* x, float epsilon, int size) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kRowThreads) sum += x[i] * x[i];
  sum = BlockSum<kRowThreads>(sum);
  return 1.0f / sqrtf(sum / static_cast<float>(size) + epsilon);
}

// A NaN stays.
__device__ inline float Clipped(float x, float limit) {
  return x > limit ? limit : x < -limit ? -limit : x;
}

struct Rotated {
  float first;
  float second;
};
__device__ inline Rotated Rotate(float a, float b, float cos, float sin) {
  return {fmaf(a, cos, -(b * sin)), fmaf(b, cos, a * sin)};
}

// Where element i of a token's keys lies in the cache.
__device__ inline int64_t CachePlace(const KvLayerView& cache, int slot, int i) {
  return slot / kKvBlockTokens * cache.block_stride +
         (int64_t{i / cache.head_dim} * kKvBlockTokens + slot % kKvBlockTokens) * cache.head_dim +
         i % cache.head_dim;
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_ROW_MATH_CUH_
