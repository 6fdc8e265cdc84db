#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/rows.h"

namespace moe::kernels::cuda {

namespace {

// A block for each row and kRowThreads of its `size` elements.
dim3 RowGrid(int num_rows, int size) {
  return dim3(static_cast<unsigned int>(num_rows),
              static_cast<unsigned int>(CeilDiv(size, kRowThreads)));
}

// The element of the row that this thread has.
__device__ int ElementOfRow() {
  return static_cast<int>(blockIdx.y) * kRowThreads + static_cast<int>(threadIdx.x);
}

__global__ void __launch_bounds__(kRowThreads)
    LookUpRows(const BFloat16* embedding, int stride, const int32_t* tokens, int hidden,
               float* out) {
  AwaitEarlierKernels();
  const int i = ElementOfRow();
  if (i >= hidden) return;
  out[int64_t{blockIdx.x} * hidden + i] =
      WidenBf16(embedding[int64_t{tokens[blockIdx.x]} * stride + i]);
}

__global__ void __launch_bounds__(kRowThreads) ClipElements(float* x, int64_t size, float limit) {
  AwaitEarlierKernels();
  const int64_t i = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (i >= size) return;
  x[i] = Clipped(x[i], limit);
}

__global__ void __launch_bounds__(kRowThreads)
    RotateRows(RopeTableView table, const int32_t* positions, int num_heads, float* x,
               int row_stride) {
  AwaitEarlierKernels();
  const int half = table.head_dim / 2;
  const int pair = ElementOfRow();
  if (pair >= num_heads * half) return;
  const int i = pair % half;
  const int64_t angle = int64_t{positions[blockIdx.x]} * half + i;
  float* first = x + int64_t{blockIdx.x} * row_stride + pair / half * table.head_dim + i;
  const Rotated rotated = Rotate(first[0], first[half], table.cos[angle], table.sin[angle]);
  first[0] = rotated.first;
  first[half] = rotated.second;
}

}  // namespace

absl::Status LookUpEmbedding(const Gpu& gpu, const BFloat16* embedding, int stride,
                             const int32_t* tokens, int num_rows, int hidden, float* out) {
  return Launch(gpu, "embedding", LookUpRows, RowGrid(num_rows, hidden), kRowThreads, 0, embedding,
                stride, tokens, hidden, out);
}

absl::Status Clip(const Gpu& gpu, float* x, int64_t size, float limit) {
  return Launch(gpu, "clip", ClipElements,
                dim3(static_cast<unsigned int>(CeilDiv(size, kRowThreads))), kRowThreads, 0, x,
                size, limit);
}

absl::Status ApplyRope(const Gpu& gpu, const RopeTableView& table, const int32_t* positions,
                       int num_rows, int num_heads, float* x, int row_stride) {
  return Launch(gpu, "RoPE", RotateRows, RowGrid(num_rows, num_heads * (table.head_dim / 2)),
                kRowThreads, 0, table, positions, num_heads, x, row_stride);
}

}  // namespace moe::kernels::cuda
