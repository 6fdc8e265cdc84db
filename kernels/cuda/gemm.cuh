// The product behind every linear layer and expert: weights on the M side of mma.m16n8k16, tokens
// on its N side. Included by .cu files only.
//
// One output's bits. K is cut into segments by K alone (gemm_schedule.h). Within a segment the MMAs
// of an output run in ascending order of k, from zero; the segments' results are added in ascending
// order, from zero, in fp32. Both kernels below do exactly that, so that an output depends on its
// own row and its own weights only:
//   NarrowGemm  few tokens. One warp for each segment, with a pipeline of its own; all read
//               weights at once, each weight once. The block then adds the segments.
//   WideGemm    many tokens. The warps share a tile of weights and tokens and run the segments
//               one after the other.
//
// A Problem says what is multiplied and where results go:
//   kNumMatrices  1, or 2 weight matrices with results that belong together (gate and up): they
//                 take turns in the 16-row tiles, so that one thread sees both
//   kKnowsWeights whether Find and Weight read nothing that the kernel before this one writes: then
//                 the first weights are on their way before that kernel is done (launch.cuh)
//   int length    K
//   bool Find(rows, columns, &place)
//                 this block's part: `rows` weight rows of each matrix, `columns` tokens; false:
//                 nothing to do. The same for all threads of a block
//   const BFloat16* Weight(place, matrix, row)   nullptr for a row that is not there
//   const BFloat16* Token(place, column)         nullptr for a token that is not there
//   bool Has(place, row, column)                 whether both are there
//   void Finish(place, row, column, values)
//                 takes the results of one row of each matrix; called once, by one thread, for
//                 what Has
#ifndef MOE_KERNELS_CUDA_GEMM_CUH_
#define MOE_KERNELS_CUDA_GEMM_CUH_

#include <cstdint>

#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tile_layout.h"
#include "kernels/cuda/warp.cuh"

namespace moe::kernels::cuda {

inline constexpr int kGemmThreads = 256;
inline constexpr int kGemmWarps = kGemmThreads / kWarpSize;
static_assert(kGemmWarps == kMaxSegments);
inline constexpr int kStepChunks = kStepLength / kChunk;
inline constexpr int kStepRowBytes = kStepLength * sizeof(BFloat16);

// What one thread copies in each stage: the same chunk of every kRowsApart-th row of a tile.
template <int kCopies>
struct RowCopies {
  const BFloat16* from[kCopies];  // where the chunk lies at k = 0
  unsigned int present;           // bit i: row i is there
};

// Starts this thread's copies of the stage at k, into a tile [kCopies * kRowsApart][kStepChunks].
template <int kCopies, int kRowsApart>
__device__ inline void CopyRows(const RowCopies<kCopies>& rows, int first_row, int chunk, int k,
                                int length, unsigned char* tile) {
  const int valid = ValidChunkBytes(length - k - chunk * kChunk);
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int at = SwizzledChunk<kStepChunks>(first_row + i * kRowsApart, chunk);
    CopyAsync(tile + at * 16, rows.from[i] + k, (rows.present >> i & 1u) != 0 ? valid : 0);
  }
}

template <int kRowsApart, int kCopies, typename Problem>
__device__ inline void FindWeights(const Problem& problem, const typename Problem::Place& place,
                                   int first_row, int chunk, RowCopies<kCopies>* rows) {
  rows->present = 0;
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int r = first_row + i * kRowsApart;
    const int matrix = WeightMatrix<Problem::kNumMatrices>(r);
    const BFloat16* from = problem.Weight(place, matrix, WeightRow<Problem::kNumMatrices>(r));
    if (from != nullptr) rows->present |= 1u << i;
    if (from == nullptr) from = problem.Weight(place, matrix, 0);  // an address, never read
    rows->from[i] = from + chunk * kChunk;
  }
}

template <int kRowsApart, int kCopies, typename Problem>
__device__ inline void FindTokens(const Problem& problem, const typename Problem::Place& place,
                                  int first_row, int chunk, RowCopies<kCopies>* rows) {
  rows->present = 0;
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const BFloat16* from = problem.Token(place, first_row + i * kRowsApart);
    if (from != nullptr) rows->present |= 1u << i;
    if (from == nullptr) from = problem.Token(place, 0);
    rows->from[i] = from + chunk * kChunk;
  }
}

// sums += the products of one stage: kRowTiles * 16 weight rows and kColumnTiles * 8 tokens, which
// lie at the start of their tiles.
template <int kRowTiles, int kColumnTiles>
__device__ inline void MultiplyStage(const unsigned char* weights, const unsigned char* tokens,
                                     int lane, float (&sums)[kRowTiles][kColumnTiles][4]) {
  constexpr int kStepMmas = kStepLength / 16;
  uint32_t twice[4] = {};  // with one column tile, one load serves two MMAs
#pragma unroll
  for (int step = 0; step < kStepMmas; ++step) {
    uint32_t b[kColumnTiles][2];
    if constexpr (kColumnTiles == 1) {
      if (step % 2 == 0) {
        const ChunkPlace place = PlaceOfBTwice(lane);
        LoadMatrices(twice,
                     tokens + SwizzledChunk<kStepChunks>(place.row, step * 2 + place.chunk) * 16);
      }
      b[0][0] = twice[step % 2 * 2];
      b[0][1] = twice[step % 2 * 2 + 1];
    } else {
      const ChunkPlace place = PlaceOfTwoB(lane);
#pragma unroll
      for (int j = 0; j < kColumnTiles; j += 2) {
        uint32_t pair[4];
        LoadMatrices(
            pair,
            tokens + SwizzledChunk<kStepChunks>(8 * j + place.row, step * 2 + place.chunk) * 16);
        b[j][0] = pair[0];
        b[j][1] = pair[1];
        b[j + 1][0] = pair[2];
        b[j + 1][1] = pair[3];
      }
    }
    const ChunkPlace place = PlaceOfA(lane);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      uint32_t a[4];
      LoadMatrices(
          a, weights + SwizzledChunk<kStepChunks>(16 * i + place.row, step * 2 + place.chunk) * 16);
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) Mma(sums[i][j], a, b[j][0], b[j][1]);
    }
  }
}

// Sums of a block's outputs, [parts][columns][rows + padding] fp32 in shared memory: the padding
// spreads the eight rows and four pairs of columns that a warp writes at once over all banks.
template <int kRows>
inline constexpr int kSumStride = kRows + 4;

// Writes a warp's fragments to one part, at (first_row, first_column) of the tile.
template <int kRows, int kRowTiles, int kColumnTiles>
__device__ inline void StoreSums(const float (&sums)[kRowTiles][kColumnTiles][4], int first_row,
                                 int first_column, int lane, float* part) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int row = first_row + 16 * i + RowOfC(lane, c);
        const int column = first_column + 8 * j + ColumnOfC(lane, c);
        part[column * kSumStride<kRows> + row] = sums[i][j][c];
      }
    }
  }
}

// Adds the parts in ascending order and hands the results out.
template <int kRows, int kColumns, typename Problem>
__device__ inline void FinishTile(const Problem& problem, const typename Problem::Place& place,
                                  const float* parts, int num_parts) {
  constexpr int kMatrices = Problem::kNumMatrices;
  constexpr int kOutputs = kRows / kMatrices;
  constexpr int kPartSize = kColumns * kSumStride<kRows>;
  for (int i = static_cast<int>(threadIdx.x); i < kOutputs * kColumns; i += kGemmThreads) {
    const int row = i % kOutputs;
    const int column = i / kOutputs;
    if (!problem.Has(place, row, column)) continue;
    float values[kMatrices];
#pragma unroll
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      const float* part = parts + column * kSumStride<kRows> + TileRow<kMatrices>(matrix, row);
      float sum = 0.0f;
      for (int p = 0; p < num_parts; ++p) sum += part[p * kPartSize];
      values[matrix] = sum;
    }
    problem.Finish(place, row, column, values);
  }
}

// This thread's copies of a tile, stage by stage: its weight rows, and the tokens behind them.
template <typename Problem, typename Shape, int kRowsApart>
class TileCopies {
 public:
  // `stages`: [Shape::kStages] in shared memory. `begin`: k of step 0.
  __device__ TileCopies(const Problem& problem, const typename Problem::Place& place, int first_row,
                        int chunk, int begin, int num_steps, unsigned char* stages)
      : first_row_(first_row),
        chunk_(chunk),
        begin_(begin),
        length_(problem.length),
        num_steps_(num_steps),
        stages_(stages) {
    FindWeights<kRowsApart>(problem, place, first_row, chunk, &weights_);
    FindTokens<kRowsApart>(problem, place, first_row, chunk, &tokens_);
  }

  // Starts the copies of `step`, if there is one; always a group.
  __device__ void Start(int step) {
    StartWeights(step);
    StartTokens(step);
  }
  // The same for steps 0 .. kSteps - 1. Waits for earlier kernels, if FindPart has not.
  template <int kSteps>
  __device__ void StartFirst() {
    if constexpr (Problem::kKnowsWeights) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) StartWeights(step);
      AwaitEarlierKernels();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) StartTokens(step);
    } else {
      for (int step = 0; step < kSteps; ++step) Start(step);
    }
  }

 private:
  __device__ unsigned char* StageOf(int step) const {
    return stages_ + step % Shape::kStages * Shape::kStageBytes;
  }
  __device__ void StartWeights(int step) {
    if (step >= num_steps_) return;
    CopyRows<Shape::kRows / kRowsApart, kRowsApart>(
        weights_, first_row_, chunk_, begin_ + step * kStepLength, length_, StageOf(step));
  }
  __device__ void StartTokens(int step) {
    if (step < num_steps_) {
      CopyRows<Shape::kColumns / kRowsApart, kRowsApart>(
          tokens_, first_row_, chunk_, begin_ + step * kStepLength, length_,
          StageOf(step) + Shape::kRows * kStepRowBytes);
    }
    CommitCopies();
  }

  const int first_row_;
  const int chunk_;
  const int begin_;
  const int length_;
  const int num_steps_;
  unsigned char* const stages_;
  RowCopies<Shape::kRows / kRowsApart> weights_;
  RowCopies<Shape::kColumns / kRowsApart> tokens_;
};

// Whether this block has a part, and where. With weights that are known, the wait for earlier
// kernels is still to come where it has one.
template <typename Problem>
__device__ inline bool FindPart(const Problem& problem, int rows, int columns,
                                typename Problem::Place* place) {
  if constexpr (!Problem::kKnowsWeights) AwaitEarlierKernels();
  const bool found = problem.Find(rows, columns, place);
  if constexpr (Problem::kKnowsWeights) {
    if (!found) AwaitEarlierKernels();
  }
  return found;
}

constexpr int MaxOf(int a, int b) { return a > b ? a : b; }

// Tiles of NarrowGemm: 16 * kRowTiles weight rows, 8 * kColumnTiles tokens.
template <int kRowTiles, int kColumnTiles>
struct NarrowShape {
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr int kColumns = 8 * kColumnTiles;
  static constexpr int kStageBytes = (kRows + kColumns) * kStepRowBytes;  // of one warp
  // Several blocks, or one with deep pipelines, fill a multiprocessor's shared memory.
  static constexpr int kStages = kStageBytes * kGemmWarps > (32 << 10) ? 2 : 4;
  static constexpr int kSharedBytes =
      MaxOf(kGemmWarps * kStages * kStageBytes,
            kGemmWarps* kColumns* kSumStride<kRows>* static_cast<int>(sizeof(float)));
};

template <typename Problem, int kRowTiles, int kColumnTiles>
__global__ void __launch_bounds__(kGemmThreads) NarrowGemm(const Problem problem) {
  using Shape = NarrowShape<kRowTiles, kColumnTiles>;
  constexpr int kRowsApart = kWarpSize / kStepChunks;  // rows that a warp copies at once
  typename Problem::Place place;
  if (!FindPart(problem, Shape::kRows / Problem::kNumMatrices, Shape::kColumns, &place)) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int chunk = lane % kStepChunks;
  const int first_row = lane / kStepChunks;
  unsigned char* const shared = DynamicShared();
  unsigned char* const stages = shared + warp * Shape::kStages * Shape::kStageBytes;

  const KSegments segments = SegmentsOf(problem.length);
  const int begin = warp * segments.length;
  const int left = problem.length - begin;
  const int num_steps =
      warp < segments.count ? StepsOf(left < segments.length ? left : segments.length) : 0;
  TileCopies<Problem, Shape, kRowsApart> copies(problem, place, first_row, chunk, begin, num_steps,
                                                stages);

  float sums[kRowTiles][kColumnTiles][4] = {};
  copies.template StartFirst<Shape::kStages>();
  for (int step = 0; step < num_steps; ++step) {
    WaitForCopies<Shape::kStages - 1>();
    __syncwarp();  // all lanes' copies are there
    const unsigned char* stage = stages + step % Shape::kStages * Shape::kStageBytes;
    MultiplyStage(stage, stage + Shape::kRows * kStepRowBytes, lane, sums);
    __syncwarp();  // all lanes have read the stage
    copies.Start(step + Shape::kStages);
  }

  __syncthreads();  // the stages give way to the sums
  auto* const parts = reinterpret_cast<float*>(shared);
  if (warp < segments.count) {
    StoreSums<Shape::kRows>(sums, 0, 0, lane,
                            parts + warp * Shape::kColumns * kSumStride<Shape::kRows>);
  }
  __syncthreads();
  FinishTile<Shape::kRows, Shape::kColumns>(problem, place, parts, segments.count);
}

// Tiles of WideGemm: kWarpRows * kWarpColumns warps, each 16 * kRowTiles weight rows and
// 8 * kColumnTiles tokens.
template <int kWarpRows, int kWarpColumns, int kRowTiles, int kColumnTiles>
struct WideShape {
  static_assert(kWarpRows * kWarpColumns == kGemmWarps);
  static constexpr int kRows = kWarpRows * 16 * kRowTiles;
  static constexpr int kColumns = kWarpColumns * 8 * kColumnTiles;
  static constexpr int kStageBytes = (kRows + kColumns) * kStepRowBytes;
  static constexpr int kStages = 4;
  static constexpr int kSharedBytes =
      MaxOf(kStages * kStageBytes, kColumns* kSumStride<kRows>* static_cast<int>(sizeof(float)));
};

template <typename Problem, int kWarpRows, int kWarpColumns, int kRowTiles, int kColumnTiles>
__global__ void __launch_bounds__(kGemmThreads) WideGemm(const Problem problem) {
  using Shape = WideShape<kWarpRows, kWarpColumns, kRowTiles, kColumnTiles>;
  constexpr int kRowsApart = kGemmThreads / kStepChunks;
  typename Problem::Place place;
  if (!FindPart(problem, Shape::kRows / Problem::kNumMatrices, Shape::kColumns, &place)) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpSize;
  const int lane = thread % kWarpSize;
  const int chunk = thread % kStepChunks;
  const int first_row = thread / kStepChunks;
  const int warp_row = warp % kWarpRows * 16 * kRowTiles;
  const int warp_column = warp / kWarpRows * 8 * kColumnTiles;
  unsigned char* const shared = DynamicShared();

  const int num_steps = StepsOf(problem.length);
  const int segment_steps = SegmentsOf(problem.length).length / kStepLength;
  TileCopies<Problem, Shape, kRowsApart> copies(problem, place, first_row, chunk, /*begin=*/0,
                                                num_steps, shared);

  float totals[kRowTiles][kColumnTiles][4] = {};
  float sums[kRowTiles][kColumnTiles][4] = {};
  copies.template StartFirst<Shape::kStages - 1>();
  for (int step = 0; step < num_steps; ++step) {
    WaitForCopies<Shape::kStages - 2>();
    // All threads' copies of this stage are there, and all have read the stage that is overwritten
    // next.
    __syncthreads();
    copies.Start(step + Shape::kStages - 1);
    const unsigned char* stage = shared + step % Shape::kStages * Shape::kStageBytes;
    MultiplyStage(stage + warp_row * kStepRowBytes,
                  stage + (Shape::kRows + warp_column) * kStepRowBytes, lane, sums);
    if ((step + 1) % segment_steps == 0 || step + 1 == num_steps) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            totals[i][j][c] += sums[i][j][c];
            sums[i][j][c] = 0.0f;
          }
        }
      }
    }
  }

  __syncthreads();
  auto* const parts = reinterpret_cast<float*>(shared);
  StoreSums<Shape::kRows>(totals, warp_row, warp_column, lane, parts);
  __syncthreads();
  FinishTile<Shape::kRows, Shape::kColumns>(problem, place, parts, 1);
}

template <typename Problem, int kRowTiles, int kColumnTiles>
absl::Status LaunchNarrow(const Gpu& gpu, absl::string_view name, const Problem& problem,
                          dim3 grid) {
  return Launch(gpu, name, NarrowGemm<Problem, kRowTiles, kColumnTiles>, grid, kGemmThreads,
                NarrowShape<kRowTiles, kColumnTiles>::kSharedBytes, problem);
}

template <typename Problem, int kWarpRows, int kWarpColumns, int kRowTiles, int kColumnTiles>
absl::Status LaunchWide(const Gpu& gpu, absl::string_view name, const Problem& problem, dim3 grid) {
  return Launch(gpu, name, WideGemm<Problem, kWarpRows, kWarpColumns, kRowTiles, kColumnTiles>,
                grid, kGemmThreads,
                WideShape<kWarpRows, kWarpColumns, kRowTiles, kColumnTiles>::kSharedBytes, problem);
}

// Runs `problem` in tiles of `columns` tokens (kTileColumns), on a grid of row tiles x column
// tiles.
template <typename Problem>
absl::Status LaunchGemm(const Gpu& gpu, absl::string_view name, const Problem& problem,
                        int num_rows, int columns, int num_column_tiles) {
  constexpr int kMatrices = Problem::kNumMatrices;
  const GemmTile tile = TileOf(columns, kMatrices);
  const dim3 grid(static_cast<unsigned int>(CeilDiv(num_rows, tile.rows / kMatrices)),
                  static_cast<unsigned int>(num_column_tiles));
  switch (columns) {
    case 8:
      return LaunchNarrow<Problem, kMatrices, 1>(gpu, name, problem, grid);
    case 16:
      return LaunchNarrow<Problem, 2, 2>(gpu, name, problem, grid);
    case 32:
      return LaunchNarrow<Problem, 2, 4>(gpu, name, problem, grid);
    case 64:
      return LaunchWide<Problem, 4, 2, 2, 4>(gpu, name, problem, grid);
    default:
      return LaunchWide<Problem, 2, 4, 4, 4>(gpu, name, problem, grid);
  }
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_GEMM_CUH_
