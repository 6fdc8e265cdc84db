#include "kernels/cuda/qkv.h"
#include "kernels/cuda/row_math.cuh"

namespace moe::kernels::cuda {

namespace {

// Three blocks for each row: q, k, v.
__global__ void __launch_bounds__(kRowThreads) FinishRows(const QkvArgs args) {
  AwaitEarlierKernels();
  const int head_dim = args.cache.head_dim;
  const int half = head_dim / 2;
  const int q_size = args.num_heads * head_dim;
  const int kv_size = args.cache.num_kv_heads * head_dim;
  const int slot = args.slots[blockIdx.x];
  const float limit = args.clip > 0.0f ? args.clip : INFINITY;
  float* const q = args.qkv + int64_t{blockIdx.x} * args.stride;
  const int thread = static_cast<int>(threadIdx.x);
  if (blockIdx.y == 2) {
    const float* v = q + q_size + kv_size;
    for (int i = thread; i < kv_size; i += kRowThreads) {
      args.cache.v[CachePlace(args.cache, slot, i)] = RoundBf16(Clipped(v[i], limit));
    }
    return;
  }
  const bool is_q = blockIdx.y == 0;
  float* const x = is_q ? q : q + q_size;
  const BFloat16* norm = is_q ? args.q_norm : args.k_norm;
  const int size = is_q ? q_size : kv_size;
  const float scale = InverseRms(x, args.epsilon, size);
  const int64_t angles = int64_t{args.positions[blockIdx.x]} * half;
  for (int pair = thread; pair < size / 2; pair += kRowThreads) {
    const int i = pair / half * head_dim + pair % half;
    const float a = Clipped(x[i] * scale * WidenBf16(norm[i]), limit);
    const float b = Clipped(x[i + half] * scale * WidenBf16(norm[i + half]), limit);
    const Rotated rotated =
        Rotate(a, b, args.rope.cos[angles + pair % half], args.rope.sin[angles + pair % half]);
    if (is_q) {
      x[i] = rotated.first;
      x[i + half] = rotated.second;
    } else {
      args.cache.k[CachePlace(args.cache, slot, i)] = RoundBf16(rotated.first);
      args.cache.k[CachePlace(args.cache, slot, i + half)] = RoundBf16(rotated.second);
    }
  }
}

}  // namespace

absl::Status FinishQkv(const Gpu& gpu, const QkvArgs& args) {
  return Launch(gpu, "q, k and v", FinishRows, dim3(static_cast<unsigned int>(args.num_rows), 3),
                kRowThreads, 0, args);
}

}  // namespace moe::kernels::cuda
