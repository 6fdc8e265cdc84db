#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/linear.h"

namespace moe::kernels::cuda {

namespace {

struct LinearProblem {
  static constexpr int kNumMatrices = 1;
  static constexpr bool kKnowsWeights = true;
  struct Place {
    int row;     // of the weights
    int column;  // row of x
  };

  __device__ bool Find(int rows, int columns, Place* place) const {
    place->row = static_cast<int>(blockIdx.x) * rows;
    place->column = static_cast<int>(blockIdx.y) * columns;
    return true;
  }
  __device__ const BFloat16* Weight(const Place& place, int /*matrix*/, int row) const {
    const int at = place.row + row;
    return at < weight.rows ? weight.data + int64_t{at} * weight.stride : nullptr;
  }
  __device__ const BFloat16* Token(const Place& place, int column) const {
    const int at = place.column + column;
    return at < num_rows ? x + int64_t{at} * x_stride : nullptr;
  }
  __device__ bool Has(const Place& place, int row, int column) const {
    return place.row + row < weight.rows && place.column + column < num_rows;
  }
  __device__ void Finish(const Place& place, int row, int column, const float (&values)[1]) const {
    float* to = out + int64_t{place.column + column} * out_stride + place.row + row;
    *to = accumulate ? *to + values[0] : values[0];
  }

  int length;
  const BFloat16* x;
  int x_stride;
  int num_rows;
  Matrix weight;
  float* out;
  int out_stride;
  bool accumulate;
};

}  // namespace

absl::Status LinearWithTile(const Gpu& gpu, const BFloat16* x, int x_stride, int num_rows,
                            const Matrix& weight, float* out, int out_stride, Accumulate accumulate,
                            int columns) {
  if (num_rows == 0 || weight.rows == 0) return absl::OkStatus();
  if (!IsAligned(x, x_stride) || !IsAligned(weight.data, weight.stride)) {
    return absl::InvalidArgumentError("linear: rows that are not aligned to 16 bytes");
  }
  const LinearProblem problem = {.length = weight.cols,
                                 .x = x,
                                 .x_stride = x_stride,
                                 .num_rows = num_rows,
                                 .weight = weight,
                                 .out = out,
                                 .out_stride = out_stride,
                                 .accumulate = accumulate == Accumulate::kYes};
  return LaunchGemm(gpu, "linear", problem, weight.rows, columns,
                    static_cast<int>(CeilDiv(num_rows, columns)));
}

absl::Status Linear(const Gpu& gpu, const BFloat16* x, int x_stride, int num_rows,
                    const Matrix& weight, float* out, int out_stride, Accumulate accumulate) {
  const GemmTile tile = ChooseTile(weight.rows, num_rows, 1, 1, gpu.num_sms);
  return LinearWithTile(gpu, x, x_stride, num_rows, weight, out, out_stride, accumulate,
                        tile.columns);
}

}  // namespace moe::kernels::cuda
