#include "absl/strings/str_format.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/row_math.cuh"
#include "kernels/cuda/tile_layout.h"

namespace moe::kernels::cuda {

namespace {

constexpr int kBlocksPerSplit = kSplitKeys / kKvBlockTokens;
constexpr int kTilesPerBlock = kKvBlockTokens / 16;  // 16 keys: the M side of an MMA
constexpr int kStages = 4;                           // KV blocks in shared memory
constexpr float kLog2E = 1.44269504088896341f;

__global__ void __launch_bounds__(kRowThreads)
    StoreRows(const float* k, const float* v, int row_stride, const int32_t* slots,
              KvLayerView cache) {
  AwaitEarlierKernels();
  const int i = static_cast<int>(blockIdx.y) * kRowThreads + static_cast<int>(threadIdx.x);
  if (i >= cache.num_kv_heads * cache.head_dim) return;
  const int64_t to = CachePlace(cache, slots[blockIdx.x], i);
  const int64_t from = int64_t{blockIdx.x} * row_stride + i;
  cache.k[to] = RoundBf16(k[from]);
  cache.v[to] = RoundBf16(v[from]);
}

// The factors of the sums so far and of the next split; see attention.h.
struct MergeFactors {
  float max;
  float before;
  float next;
};
__device__ inline MergeFactors FactorsOf(float max, float split_max) {
  const float larger = fmaxf(max, split_max);
  return {larger, exp2f(max - larger), exp2f(split_max - larger)};
}
__device__ inline float Merge(float before, float next, const MergeFactors& factors) {
  return fmaf(next, factors.next, before * factors.before);
}

// Over the lanes that have the same columns of a C fragment.
__device__ inline float ColumnMax(float value) {
  for (int distance = 4; distance < kWarpSize; distance *= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}
__device__ inline float ColumnSum(float value) {
  for (int distance = 4; distance < kWarpSize; distance *= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// What a column of a unit is.
struct Column {
  int num_keys;  // it attends to; 0: there is no such column
  int position;  // in the slice
  int row;
  int head;
};
__device__ inline Column ColumnOf(const DeviceSlice& slice, int column, int kv_head,
                                  int heads_per_kv) {
  const int position = column / heads_per_kv;
  if (position >= slice.count) return {0, 0, 0, 0};
  return {slice.start + position + 1, position, slice.first_row + position,
          kv_head * heads_per_kv + column % heads_per_kv};
}

// Queries of a warp as B fragments, [8 columns][kDim].
template <int kDim>
struct Queries {
  uint32_t b[kDim / 16][2];
};

template <int kDim>
__device__ inline Queries<kDim> LoadQueries(const AttentionArgs& args, const Column& column,
                                            int lane) {
  Queries<kDim> queries;
  const int head_dim = args.cache.head_dim;
  const float* q = args.q + int64_t{column.row} * args.q_stride + column.head * head_dim;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int d = 16 * step + 8 * half + lane % 4 * 2;
      const bool there = column.num_keys > 0 && d < head_dim;
      queries.b[step][half] = there ? PackBf16(q[d], q[d + 1]) : 0;
    }
  }
  return queries;
}

// Copies one KV block of a head to a stage [kKvBlockTokens][kDim / kChunk chunks]; what is not
// there becomes zero.
template <int kDim, int kNumThreads>
__device__ inline void CopyBlock(const BFloat16* block, int head_dim, int num_keys,
                                 unsigned char* stage) {
  constexpr int kRowChunks = kDim / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kKvBlockTokens * kRowChunks; i += kNumThreads) {
    const int key = i / kRowChunks;
    const int chunk = i % kRowChunks;
    const bool there = key < num_keys && chunk * kChunk < head_dim;
    const BFloat16* from = block + (there ? key * head_dim + chunk * kChunk : 0);
    CopyAsync(stage + SwizzledChunk<kRowChunks>(key, chunk) * 16, from, there ? 2 * kChunk : 0);
  }
}

// One block: kWarps warps with 8 columns each, which share K and V.
template <int kDim, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    AttendUnits(const AttentionArgs args, const AttentionUnit* units) {
  AwaitEarlierKernels();
  constexpr int kNumThreads = kWarps * kWarpSize;
  constexpr int kRowChunks = kDim / kChunk;
  constexpr int kStageBytes = kKvBlockTokens * kDim * static_cast<int>(sizeof(BFloat16));
  constexpr int kDimTiles = kDim / 16;
  constexpr int kSplitTiles = kBlocksPerSplit * kTilesPerBlock;
  const AttentionUnit unit = units[blockIdx.x];
  const DeviceSlice slice = args.slices[unit.slice];
  const int kv_head = static_cast<int>(blockIdx.y);
  const int heads_per_kv = args.num_heads / args.cache.num_kv_heads;
  const int head_dim = args.cache.head_dim;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_column = unit.first_column + warp * kWarpColumns;

  // Most keys of a column of the block, and of the warp: later columns have no fewer.
  const int last_column = slice.count * heads_per_kv - 1;
  const auto most_keys = [&](int begin, int count) {
    const int last = begin + count - 1 < last_column ? begin + count - 1 : last_column;
    return last < begin ? 0 : slice.start + last / heads_per_kv + 1;
  };
  const int block_keys = most_keys(unit.first_column, kWarps * kWarpColumns);
  const int warp_keys = most_keys(first_column, kWarpColumns);
  const int first_split = unit.split == kAllSplits ? 0 : unit.split;
  const int end_split =
      unit.split == kAllSplits ? (block_keys + kSplitKeys - 1) / kSplitKeys : unit.split + 1;

  const Queries<kDim> queries = LoadQueries<kDim>(
      args, ColumnOf(slice, first_column + lane / 4, kv_head, heads_per_kv), lane);
  // The two columns of this lane's C fragments.
  Column columns[2];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    columns[j] = ColumnOf(slice, first_column + ColumnOfC(lane, j), kv_head, heads_per_kv);
  }

  unsigned char* const stages = DynamicShared();
  const int64_t head_offset = int64_t{kv_head} * kKvBlockTokens * head_dim;
  const int num_items = (end_split - first_split) * 2 * kBlocksPerSplit;
  // Item by item: the K blocks of a split, its V blocks, the next split. Always a group of copies.
  const auto copy = [&](int item) {
    if (item < num_items) {
      const int split = first_split + item / (2 * kBlocksPerSplit);
      const int block = split * kBlocksPerSplit + item % kBlocksPerSplit;
      const int left = block_keys - block * kKvBlockTokens;
      if (left > 0) {
        const BFloat16* const side = item / kBlocksPerSplit % 2 == 0 ? args.cache.k : args.cache.v;
        const int64_t at = args.block_table[slice.first_block + block] * args.cache.block_stride;
        CopyBlock<kDim, kNumThreads>(side + at + head_offset, head_dim, left,
                                     stages + item % kStages * kStageBytes);
      }
    }
    CommitCopies();
  };
  for (int item = 0; item < kStages - 1; ++item) copy(item);
  int item = 0;
  // The stage of the next item, when it is there.
  const auto next_stage = [&]() {
    WaitForCopies<kStages - 2>();
    // All threads' copies are there, and all have read the stage that is overwritten next.
    __syncthreads();
    copy(item + kStages - 1);
    return stages + item++ % kStages * kStageBytes;
  };

  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};
  float output[kDimTiles][4] = {};
  const float log2_scale = args.scale * kLog2E;
  for (int split = first_split; split < end_split; ++split) {
    const int split_start = split * kSplitKeys;
    float scores[kSplitTiles][4];
#pragma unroll
    for (int block = 0; block < kBlocksPerSplit; ++block) {
      const unsigned char* stage = next_stage();
#pragma unroll
      for (int i = 0; i < kTilesPerBlock; ++i) {
        const int tile = block * kTilesPerBlock + i;
        const int first_key = split_start + tile * 16;
#pragma unroll
        for (int c = 0; c < 4; ++c) scores[tile][c] = 0.0f;
        if (first_key < warp_keys) {
          const ChunkPlace place = PlaceOfA(lane);
#pragma unroll
          for (int step = 0; step < kDimTiles; ++step) {
            uint32_t a[4];
            LoadMatrices(
                a,
                stage + SwizzledChunk<kRowChunks>(16 * i + place.row, 2 * step + place.chunk) * 16);
            Mma(scores[tile], a, queries.b[step][0], queries.b[step][1]);
          }
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const bool seen = first_key + RowOfC(lane, c) < columns[c % 2].num_keys;
          scores[tile][c] = seen ? scores[tile][c] * log2_scale : -INFINITY;
        }
      }
    }

    float split_max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < kSplitTiles; ++tile) {
#pragma unroll
      for (int c = 0; c < 4; ++c) split_max[c % 2] = fmaxf(split_max[c % 2], scores[tile][c]);
    }
    float subtrahend[2];  // finite where nothing is seen, so that exp2 gives 0 and not NaN
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      split_max[j] = ColumnMax(split_max[j]);
      subtrahend[j] = split_max[j] == -INFINITY ? 0.0f : split_max[j];
    }
    float split_sum[2] = {0.0f, 0.0f};
    uint32_t weights[kSplitTiles][2];  // B fragments, [keys][columns]
#pragma unroll
    for (int tile = 0; tile < kSplitTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = PackBf16(exp2f(scores[tile][2 * half] - subtrahend[0]),
                                       exp2f(scores[tile][2 * half + 1] - subtrahend[1]));
        split_sum[0] += __uint_as_float(pair << 16);
        split_sum[1] += __uint_as_float(pair & 0xffff0000u);
        weights[tile][half] = Transpose(pair);
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) split_sum[j] = ColumnSum(split_sum[j]);

    float split_output[kDimTiles][4] = {};
#pragma unroll
    for (int block = 0; block < kBlocksPerSplit; ++block) {
      const unsigned char* stage = next_stage();
#pragma unroll
      for (int i = 0; i < kTilesPerBlock; ++i) {
        const int tile = block * kTilesPerBlock + i;
        if (split_start + tile * 16 >= warp_keys) continue;
        const ChunkPlace place = PlaceOfTransposedA(lane);
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
          uint32_t a[4];
          LoadTransposed(
              a, stage + SwizzledChunk<kRowChunks>(16 * i + place.row, 2 * d + place.chunk) * 16);
          Mma(split_output[d], a, weights[tile][0], weights[tile][1]);
        }
      }
    }

#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (split_start >= columns[j].num_keys) continue;
      if (unit.split != kAllSplits) {
        const int64_t partial =
            (int64_t{unit.first_partial} + split * slice.count + columns[j].position) *
                args.num_heads +
            columns[j].head;
        if (lane < 4) {
          args.partial_sums[2 * partial] = split_max[j];
          args.partial_sums[2 * partial + 1] = split_sum[j];
        }
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int at = 16 * d + RowOfC(lane, 2 * half);
            if (at < head_dim) {
              args.partial_outputs[partial * head_dim + at] = split_output[d][2 * half + j];
            }
          }
        }
        continue;
      }
      const MergeFactors factors = FactorsOf(max[j], split_max[j]);
      max[j] = factors.max;
      sum[j] = Merge(sum[j], split_sum[j], factors);
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          output[d][2 * half + j] =
              Merge(output[d][2 * half + j], split_output[d][2 * half + j], factors);
        }
      }
    }
  }
  if (unit.split != kAllSplits) return;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    if (columns[j].num_keys == 0) continue;
    BFloat16* out =
        args.out + (int64_t{columns[j].row} * args.num_heads + columns[j].head) * head_dim;
#pragma unroll
    for (int d = 0; d < kDimTiles; ++d) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 16 * d + RowOfC(lane, 2 * half);
        if (at < head_dim) out[at] = RoundBf16(output[d][2 * half + j] / sum[j]);
      }
    }
  }
}

// A block for each row and head; a thread for each element of the head.
__global__ void __launch_bounds__(kMaxHeadDim) MergeSplits(const AttentionArgs args) {
  AwaitEarlierKernels();
  const AttentionMerge merge = args.merges[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);
  const int head_dim = args.cache.head_dim;
  const int at = static_cast<int>(threadIdx.x);
  if (at >= head_dim) return;
  float max = -INFINITY;
  float sum = 0.0f;
  float output = 0.0f;
  for (int split = 0; split < merge.num_splits; ++split) {
    const int64_t partial =
        (int64_t{merge.first_partial} + split * merge.stride) * args.num_heads + head;
    const MergeFactors factors = FactorsOf(max, args.partial_sums[2 * partial]);
    max = factors.max;
    sum = Merge(sum, args.partial_sums[2 * partial + 1], factors);
    output = Merge(output, args.partial_outputs[partial * head_dim + at], factors);
  }
  args.out[(int64_t{merge.row} * args.num_heads + head) * head_dim + at] = RoundBf16(output / sum);
}

template <int kDim>
absl::Status LaunchAttention(const Gpu& gpu, const AttentionArgs& args) {
  constexpr int kSharedBytes = kStages * kKvBlockTokens * kDim * static_cast<int>(sizeof(BFloat16));
  const auto num_kv_heads = static_cast<unsigned int>(args.cache.num_kv_heads);
  absl::Status status = Launch(gpu, "attention (narrow)", AttendUnits<kDim, 1>,
                               dim3(static_cast<unsigned int>(args.num_narrow), num_kv_heads),
                               kWarpSize, kSharedBytes, args, args.narrow);
  if (!status.ok()) return status;
  return Launch(gpu, "attention (wide)", AttendUnits<kDim, kWideWarps>,
                dim3(static_cast<unsigned int>(args.num_wide), num_kv_heads),
                kWideWarps * kWarpSize, kSharedBytes, args, args.wide);
}

}  // namespace

absl::Status StoreKv(const Gpu& gpu, const float* k, const float* v, int row_stride,
                     const int32_t* slots, int num_rows, const KvLayerView& cache) {
  const dim3 grid(
      static_cast<unsigned int>(num_rows),
      static_cast<unsigned int>(CeilDiv(cache.num_kv_heads * cache.head_dim, kRowThreads)));
  return Launch(gpu, "storing KV", StoreRows, grid, kRowThreads, 0, k, v, row_stride, slots, cache);
}

absl::Status PagedAttention(const Gpu& gpu, const AttentionArgs& args) {
  const int head_dim = args.cache.head_dim;
  if (head_dim % kChunk != 0 || head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "attention: head_dim is %d; the GPU's attention takes multiples of %d up to %d", head_dim,
        kChunk, kMaxHeadDim));
  }
  if (!IsAligned(args.cache.k, args.cache.block_stride) ||
      !IsAligned(args.cache.v, args.cache.block_stride)) {
    return absl::InvalidArgumentError("attention: KV blocks that are not aligned to 16 bytes");
  }
  absl::Status status = head_dim <= 32   ? LaunchAttention<32>(gpu, args)
                        : head_dim <= 64 ? LaunchAttention<64>(gpu, args)
                                         : LaunchAttention<128>(gpu, args);
  if (!status.ok()) return status;
  return Launch(
      gpu, "attention (merge)", MergeSplits,
      dim3(static_cast<unsigned int>(args.num_merges), static_cast<unsigned int>(args.num_heads)),
      kMaxHeadDim, 0, args);
}

}  // namespace moe::kernels::cuda
