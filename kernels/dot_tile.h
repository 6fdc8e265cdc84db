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

// out[t * out_stride + o] for kTokens rows of x and the first num_outputs of kOutputs weight rows.
// x points to the first row's first chunk, x_stride elements lie between chunks.
template <int kTokens, int kOutputs>
MOE_INLINE void DotBlock(const BFloat16* x, int64_t x_stride, const BFloat16* weight,
                         int in_features, int num_outputs, float* out, int64_t out_stride,
                         bool accumulate) {
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
  const int64_t next_rows = int64_t{kOutputs} * in_features;
  for (int chunk = 0; chunk < num_full; ++chunk) {
    Pairs w[kOutputs];
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o) {
      w[o] = LoadPairs(rows[o] + int64_t{chunk} * kPackedChunk);
      // The weights usually come from memory: ask for the next tile while this one is computed.
      __builtin_prefetch(rows[o] + next_rows + int64_t{chunk} * kPackedChunk, 0, 2);
    }
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

// All weight rows for kTokens rows of a tile, beginning with row first_token.
template <int kTokens>
MOE_INLINE void DotRows(const DotTileArgs& args, int first_token) {
  const BFloat16* x = args.x + int64_t{first_token} * kPackedChunk;
  const int64_t x_stride = int64_t{args.num_tokens} * kPackedChunk;
  float* out = args.out + first_token * args.out_stride;
  for (int o = 0; o < args.num_outputs; o += kDotOutputs) {
    const int left = args.num_outputs - o;
    DotBlock<kTokens, kDotOutputs>(x, x_stride, args.weight + int64_t{o} * args.in_features,
                                   args.in_features, left < kDotOutputs ? left : kDotOutputs,
                                   out + o, args.out_stride, args.accumulate);
  }
}

template <int kTokens>
MOE_INLINE void DotLastRows(const DotTileArgs& args, int first_token) {
  if constexpr (kTokens > 0) {
    if (args.num_tokens - first_token == kTokens) {
      DotRows<kTokens>(args, first_token);
    } else {
      DotLastRows<kTokens - 1>(args, first_token);
    }
  }
}

// See DotTileArgs.
MOE_INLINE void DotWholeTile(const DotTileArgs& args) {
  int token = 0;
  for (; token + kDotTokens <= args.num_tokens; token += kDotTokens) {
    DotRows<kDotTokens>(args, token);
  }
  DotLastRows<kDotTokens - 1>(args, token);
}

}  // namespace
}  // namespace moe::kernels::MOE_KERNEL_LEVEL

#endif  // MOE_KERNELS_DOT_TILE_H_
