// The register tile behind every product with a weight matrix. Included by *_cpu.cc files only.
//
// A tile of kDotOutputs weight rows and up to kDotTokens activation rows keeps all its lanes in
// registers over the whole length of the rows and reduces them once at the end. Larger tiles load
// less for each product; 29 of 32 registers are in use at the widest level.
#ifndef MOE_KERNELS_DOT_TILE_H_
#define MOE_KERNELS_DOT_TILE_H_

#include "kernels/linear_cpu.h"
#include "kernels/packed_rows.h"
#include "kernels/simd.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {
namespace {

#if MOE_KERNEL_LEVEL_NUMBER == 3
constexpr int kDotOutputs = 4;
constexpr int kDotTokens = 6;
#elif MOE_KERNEL_LEVEL_NUMBER == 2
constexpr int kDotOutputs = 4;
constexpr int kDotTokens = 4;
#elif MOE_KERNEL_LEVEL_NUMBER == 1
constexpr int kDotOutputs = 2;
constexpr int kDotTokens = 2;
#else
constexpr int kDotOutputs = 1;
constexpr int kDotTokens = 1;
#endif
static_assert(kDotTokens <= kTileRows);
constexpr int kLineBytes = 64;  // one chunk of a row

// out[t * out_stride + o] for kTokens rows of x and the first num_outputs of kOutputs weight rows.
// x points to the first row's first chunk, x_stride elements lie between chunks. Prefetches
// kPrefetch cache lines from `prefetch` on with each chunk.
template <int kTokens, int kOutputs, int kPrefetch>
MOE_INLINE void DotBlock(const BFloat16* x, int64_t x_stride, const BFloat16* weight,
                         int in_features, int num_outputs, float* out, int64_t out_stride,
                         bool accumulate, uintptr_t prefetch) {
  // Missing weight rows are replaced by the last one, whose result is computed again and dropped.
  const BFloat16* rows[kOutputs];
#pragma GCC unroll 16
  for (int o = 0; o < kOutputs; ++o) {
    rows[o] = weight + int64_t{o < num_outputs ? o : num_outputs - 1} * in_features;
  }
  constexpr int kUsed = kTokens * kOutputs;
  constexpr int kPadded = (kUsed + 15) / 16 * 16;
  F32x16 acc[kPadded];
#pragma GCC unroll 32
  for (int i = 0; i < kPadded; ++i) acc[i] = Zero();

  const int num_full = in_features / kPackedChunk;
  const int tail = in_features % kPackedChunk;
  for (int chunk = 0; chunk < num_full; ++chunk) {
    Pairs w[kOutputs];
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o) {
      w[o] = LoadPairs(rows[o] + int64_t{chunk} * kPackedChunk);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kPrefetch; ++i) {
      __builtin_prefetch(reinterpret_cast<const void*>(prefetch + i * kLineBytes), 0, 2);
    }
    prefetch += kPrefetch * kLineBytes;
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const Pairs token = LoadPairs(x + t * kPackedChunk);
#pragma GCC unroll 16
      for (int o = 0; o < kOutputs; ++o) {
        acc[t * kOutputs + o] = DotAdd(token, w[o], acc[t * kOutputs + o]);
      }
    }
    x += x_stride;
  }
  if (tail != 0) {
    Pairs w[kOutputs];
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o) {
      w[o] = LoadPairsPartial(rows[o] + int64_t{num_full} * kPackedChunk, tail);
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const Pairs token = LoadPairs(x + t * kPackedChunk);
#pragma GCC unroll 16
      for (int o = 0; o < kOutputs; ++o) {
        acc[t * kOutputs + o] = DotAdd(token, w[o], acc[t * kOutputs + o]);
      }
    }
  }

  alignas(64) float sums[kPadded];
  if constexpr (kUsed == 1) {
    sums[0] = ReduceTree(acc[0]);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kPadded; i += 16) ReduceTree16(acc + i, sums + i);
  }
  for (int t = 0; t < kTokens; ++t) {
    float* row = out + t * out_stride;
    if (accumulate) {
      for (int o = 0; o < num_outputs; ++o) row[o] += sums[t * kOutputs + o];
    } else {
      for (int o = 0; o < num_outputs; ++o) row[o] = sums[t * kOutputs + o];
    }
  }
}

// One group of weight rows, and where its results go.
struct DotGroup {
  const BFloat16* weight;
  int in_features;
  int num_outputs;  // 1 .. kDotOutputs
  int64_t out_stride;
  bool accumulate;
  uintptr_t prefetch;
};

// Rows [first_row, num_rows) of a tile, of which there are at most kTokens.
template <int kTokens, int kPrefetch>
MOE_INLINE void DotLastRows(const DotGroup& group, const BFloat16* tile, int num_rows,
                            int first_row, float* out) {
  if constexpr (kTokens > 0) {
    if (num_rows - first_row == kTokens) {
      DotBlock<kTokens, kDotOutputs, kPrefetch>(
          tile + int64_t{first_row} * kPackedChunk, int64_t{num_rows} * kPackedChunk, group.weight,
          group.in_features, group.num_outputs, out + first_row * group.out_stride,
          group.out_stride, group.accumulate, group.prefetch);
    } else {
      DotLastRows<kTokens - 1, kPrefetch>(group, tile, num_rows, first_row, out);
    }
  }
}

template <int kPrefetch>
MOE_INLINE void DotTile(const DotGroup& group, const BFloat16* tile, int num_rows, float* out) {
  int row = 0;
  for (; num_rows - row > kDotTokens; row += kDotTokens) {
    DotBlock<kDotTokens, kDotOutputs, kPrefetch>(
        tile + int64_t{row} * kPackedChunk, int64_t{num_rows} * kPackedChunk, group.weight,
        group.in_features, group.num_outputs, out + row * group.out_stride, group.out_stride,
        group.accumulate, group.prefetch);
  }
  DotLastRows<kDotTokens, kPrefetch>(group, tile, num_rows, row, out);
}

// See DotTilesArgs. A group of weight rows meets all tiles before the next group comes, and the
// tiles share out the work of prefetching that next group: memory is then busy all the time, even
// where there is much to compute for each weight.
MOE_INLINE void DotAllTiles(const DotTilesArgs& args) {
  const int64_t x_stride =
      (int64_t{args.in_features} + kPackedChunk - 1) / kPackedChunk * kPackedChunk;
  const int64_t group_size = int64_t{kDotOutputs} * args.in_features;
  const int64_t num_chunks = args.in_features / kPackedChunk;
  for (int o = 0; o < args.num_outputs; o += kDotOutputs) {
    const int left = args.num_outputs - o;
    DotGroup group;
    group.weight = args.weight + int64_t{o} * args.in_features;
    group.in_features = args.in_features;
    group.num_outputs = left < kDotOutputs ? left : kDotOutputs;
    group.out_stride = args.out_stride;
    group.accumulate = args.accumulate;
    const auto next = left > kDotOutputs ? reinterpret_cast<uintptr_t>(group.weight) +
                                               group_size * sizeof(BFloat16)
                                         : reinterpret_cast<uintptr_t>(args.next_weight);
    const BFloat16* tile = args.x;
    float* out = args.out + o;
    for (int i = 0; i < args.num_tiles; ++i) {
      const int num_rows = args.tile_rows[i];
      constexpr int kHalf = kDotOutputs > 1 ? kDotOutputs / 2 : 1;
      constexpr int kQuarter = kDotOutputs > 3 ? kDotOutputs / 4 : 1;
      if (args.num_tiles == 1) {
        group.prefetch = next;
        DotTile<kDotOutputs>(group, tile, num_rows, out);
      } else if (args.num_tiles < 4) {
        group.prefetch = next + i % (kDotOutputs / kHalf) * kHalf * num_chunks * kLineBytes;
        DotTile<kHalf>(group, tile, num_rows, out);
      } else {
        group.prefetch = next + i % (kDotOutputs / kQuarter) * kQuarter * num_chunks * kLineBytes;
        DotTile<kQuarter>(group, tile, num_rows, out);
      }
      tile += num_rows * x_stride;
      out += num_rows * args.out_stride;
    }
  }
}

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_DOT_TILE_H_
