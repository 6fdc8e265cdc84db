#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/row_math.cuh"

namespace moe::kernels::cuda {

namespace {

__global__ void __launch_bounds__(kRowThreads)
    NormRows(const float* x, const int32_t* row_idxs, const BFloat16* weight, float epsilon,
             int hidden, BFloat16* out, int out_stride) {
  AwaitEarlierKernels();
  const int64_t from_row = row_idxs != nullptr ? row_idxs[blockIdx.x] : blockIdx.x;
  const float* row = x + from_row * hidden;
  BFloat16* to = out + int64_t{blockIdx.x} * out_stride;
  const float scale = InverseRms(row, epsilon, hidden);
  for (int i = static_cast<int>(threadIdx.x); i < hidden; i += kRowThreads) {
    to[i] = RoundBf16(row[i] * scale * WidenBf16(weight[i]));
  }
}

__global__ void __launch_bounds__(kRowThreads)
    NormRowsInPlace(float* x, int row_stride, const BFloat16* weight, float epsilon, int hidden) {
  AwaitEarlierKernels();
  float* row = x + int64_t{blockIdx.x} * row_stride;
  const float scale = InverseRms(row, epsilon, hidden);
  for (int i = static_cast<int>(threadIdx.x); i < hidden; i += kRowThreads) {
    row[i] = row[i] * scale * WidenBf16(weight[i]);
  }
}

}  // namespace

absl::Status RmsNorm(const Gpu& gpu, const float* x, const int32_t* row_idxs,
                     const BFloat16* weight, float epsilon, int num_rows, int hidden, BFloat16* out,
                     int out_stride) {
  return Launch(gpu, "RMS norm", NormRows, dim3(static_cast<unsigned int>(num_rows)), kRowThreads,
                0, x, row_idxs, weight, epsilon, hidden, out, out_stride);
}

absl::Status RmsNormInPlace(const Gpu& gpu, float* x, int row_stride, const BFloat16* weight,
                            float epsilon, int num_rows, int hidden) {
  return Launch(gpu, "RMS norm in place", NormRowsInPlace,
                dim3(static_cast<unsigned int>(num_rows)), kRowThreads, 0, x, row_stride, weight,
                epsilon, hidden);
}

}  // namespace moe::kernels::cuda
