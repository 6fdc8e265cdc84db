#include <algorithm>

#include "kernels/cuda/experts.h"
#include "kernels/cuda/gemm.cuh"

namespace moe::kernels::cuda {

namespace {

// Where a block's part of a grouped product lies.
struct GroupPlace {
  int expert;
  int row;    // of the weights
  int first;  // of the sorted pairs
  int count;  // tokens from there on, of this expert
};

// Finds the tile of `columns` pairs that this block has: tiles are counted expert by expert. Every
// warp looks by itself, 32 experts at a time.
__device__ inline bool FindGroup(const int32_t* offsets, int num_experts, int columns,
                                 GroupPlace* place) {
  const int wanted = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  int before = 0;  // tiles of the experts already looked at
  for (int first = 0; first < num_experts; first += kWarpSize) {
    const int expert = first + lane;
    const int begin = expert < num_experts ? offsets[expert] : 0;
    const int count = expert < num_experts ? offsets[expert + 1] - begin : 0;
    int end_tile = (count + columns - 1) / columns;  // to be summed over the lanes up to this one
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, end_tile, distance);
      if (lane >= distance) end_tile += other;
    }
    const unsigned int after = __ballot_sync(kAllLanes, before + end_tile > wanted);
    if (after != 0) {
      const int found = __ffs(static_cast<int>(after)) - 1;
      const int tiles = (count + columns - 1) / columns;
      const int first_tile = __shfl_sync(kAllLanes, before + end_tile - tiles, found);
      const int skipped = (wanted - first_tile) * columns;
      place->expert = first + found;
      place->first = __shfl_sync(kAllLanes, begin, found) + skipped;
      place->count = __shfl_sync(kAllLanes, count, found) - skipped;
      return true;
    }
    before += __shfl_sync(kAllLanes, end_tile, kWarpSize - 1);
  }
  return false;
}

// gate and up of each expert, with SwiGLU at the end.
struct GateUpProblem {
  static constexpr int kNumMatrices = 2;
  static constexpr bool kKnowsWeights = false;  // the pairs may just have been sorted
  using Place = GroupPlace;

  __device__ bool Find(int rows, int columns, Place* place) const {
    place->row = static_cast<int>(blockIdx.x) * rows;
    return FindGroup(args.offsets, args.num_experts, columns, place);
  }
  __device__ const BFloat16* Weight(const Place& place, int matrix, int row) const {
    const int at = place.row + row;
    if (at >= args.intermediate) return nullptr;
    const ExpertWeights& weights = args.weights[place.expert];
    return (matrix == 0 ? weights.gate : weights.up) + int64_t{at} * args.gate_stride;
  }
  __device__ const BFloat16* Token(const Place& place, int column) const {
    if (column >= place.count) return nullptr;
    return args.x + int64_t{args.rows[place.first + column].x_row} * args.x_stride;
  }
  __device__ bool Has(const Place& place, int row, int column) const {
    return place.row + row < args.intermediate && column < place.count;
  }
  __device__ void Finish(const Place& place, int row, int column, const float (&values)[2]) const {
    const float gate = values[0];
    const float sigmoid = 1.0f / (1.0f + expf(-gate));
    args.gated[int64_t{place.first + column} * gated_stride + place.row + row] =
        RoundBf16(gate * sigmoid * values[1]);
  }

  int length;
  int gated_stride;
  ExpertsArgs args;
};

struct DownProblem {
  static constexpr int kNumMatrices = 1;
  static constexpr bool kKnowsWeights = true;  // GateUpProblem is the kernel before
  using Place = GroupPlace;

  __device__ bool Find(int rows, int columns, Place* place) const {
    place->row = static_cast<int>(blockIdx.x) * rows;
    return FindGroup(args.offsets, args.num_experts, columns, place);
  }
  __device__ const BFloat16* Weight(const Place& place, int /*matrix*/, int row) const {
    const int at = place.row + row;
    if (at >= args.hidden) return nullptr;
    return args.weights[place.expert].down + int64_t{at} * args.down_stride;
  }
  __device__ const BFloat16* Token(const Place& place, int column) const {
    if (column >= place.count) return nullptr;
    return args.gated + int64_t{place.first + column} * gated_stride;
  }
  __device__ bool Has(const Place& place, int row, int column) const {
    return place.row + row < args.hidden && column < place.count;
  }
  __device__ void Finish(const Place& place, int row, int column, const float (&values)[1]) const {
    const int64_t out_row = args.rows[place.first + column].out_row;
    args.out[out_row * args.hidden + place.row + row] = RoundBf16(values[0]);
  }

  int length;
  int gated_stride;
  ExpertsArgs args;
};

constexpr int kCombineThreads = 256;

// One element for each thread and block of a row.
__global__ void __launch_bounds__(kCombineThreads)
    Combine(const BFloat16* y, const float* weights, int top_k, int hidden, float* residual) {
  AwaitEarlierKernels();
  const int64_t row = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y) * kCombineThreads + static_cast<int>(threadIdx.x);
  if (i >= hidden) return;
  const BFloat16* from = y + row * top_k * hidden + i;
  float sum = 0.0f;
  for (int j = 0; j < top_k; ++j) {
    sum = fmaf(weights[row * top_k + j], WidenBf16(from[int64_t{j} * hidden]), sum);
  }
  residual[row * hidden + i] += sum;
}

}  // namespace

absl::Status RunExpertsWithTile(const Gpu& gpu, const ExpertsArgs& args, int columns) {
  if (args.num_pairs == 0) return absl::OkStatus();
  if (!IsAligned(args.x, args.x_stride) || !IsAligned(args.gated, 0) ||
      !IsAligned(nullptr, args.gate_stride) || !IsAligned(nullptr, args.down_stride)) {
    return absl::InvalidArgumentError("experts: rows that are not aligned to 16 bytes");
  }
  const int num_tiles = MaxGroupTiles(args.num_pairs, args.num_experts, columns);
  const int gated_stride = PaddedStride(args.intermediate);
  const GateUpProblem gate_up = {.length = args.hidden, .gated_stride = gated_stride, .args = args};
  absl::Status status =
      LaunchGemm(gpu, "experts: gate and up", gate_up, args.intermediate, columns, num_tiles);
  if (!status.ok()) return status;
  const DownProblem down = {
      .length = args.intermediate, .gated_stride = gated_stride, .args = args};
  return LaunchGemm(gpu, "experts: down", down, args.hidden, columns, num_tiles);
}

absl::Status RunExperts(const Gpu& gpu, const ExpertsArgs& args) {
  if (args.num_pairs == 0) return absl::OkStatus();
  // Tiles with room for twice the mean: most experts then have one, and read their weights once.
  const int num_used = std::min(args.num_pairs, args.num_experts);
  const int64_t mean = CeilDiv(args.num_pairs, num_used);
  const auto wanted = static_cast<int>(std::min<int64_t>(2 * mean, args.num_tokens));
  const GemmTile tile = ChooseTile(args.intermediate, wanted, num_used, 2, gpu.num_sms);
  return RunExpertsWithTile(gpu, args, tile.columns);
}

absl::Status CombineExperts(const Gpu& gpu, const BFloat16* y, const float* weights, int num_rows,
                            int top_k, int hidden, float* residual) {
  const dim3 grid(static_cast<unsigned int>(num_rows),
                  static_cast<unsigned int>(CeilDiv(hidden, kCombineThreads)));
  return Launch(gpu, "combine", Combine, grid, kCombineThreads, 0, y, weights, top_k, hidden,
                residual);
}

}  // namespace moe::kernels::cuda
