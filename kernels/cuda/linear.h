// Matrix product of rows with a weight matrix, on the GPU. The CPU's is kernels/linear.h.
// Tested by tests/kernels/cuda/linear_test.cc.
#ifndef MOE_KERNELS_CUDA_LINEAR_H_
#define MOE_KERNELS_CUDA_LINEAR_H_

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/matrix.h"
#include "kernels/linear.h"

namespace moe::kernels::cuda {

// out[t][n] = the product of x[t] and weight[n]   (kNo), or that added to out[t][n]   (kYes)
// in the order of gemm.cuh: one element's bits depend on x[t] and weight[n] alone.
//   x    num_rows rows of weight.cols bf16, x_stride apart; aligned as matrix.h says
//   out  [num_rows, out_stride] fp32, the first weight.rows of each row are written
// All in device memory; enqueued in gpu.stream. InvalidArgument for rows that are not aligned.
absl::Status Linear(const Gpu& gpu, const BFloat16* x, int x_stride, int num_rows,
                    const Matrix& weight, float* out, int out_stride,
                    Accumulate accumulate = Accumulate::kNo);

// The same with tiles of `columns` tokens (kTileColumns of gemm_schedule.h): for tests and
// measurements. Linear() chooses.
absl::Status LinearWithTile(const Gpu& gpu, const BFloat16* x, int x_stride, int num_rows,
                            const Matrix& weight, float* out, int out_stride, Accumulate accumulate,
                            int columns);

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LINEAR_H_
