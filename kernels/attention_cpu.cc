// See attention_cpu.h. Tested by tests/kernels/attention_test.cc.
#include "kernels/attention_cpu.h"

#include "kernels/simd.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

namespace {

// Lane vectors that a tile keeps in registers.
#if MOE_KERNEL_LEVEL_NUMBER >= 2
constexpr int kAccumulators = 16;
#elif MOE_KERNEL_LEVEL_NUMBER == 1
constexpr int kAccumulators = 4;
#else
constexpr int kAccumulators = 4;
#endif

// Keys of a score tile and vectors of an output tile for a number of rows.
constexpr int Columns(int rows) { return rows == 3 ? Columns(4) : kAccumulators / rows; }

// Elements of a cache line.
constexpr int kLine = 32;

// Scores of kRows rows with kKeys consecutive keys of one block, of which the first num_valid
// exist; the others get the score of the last that exists. Prefetches as much as it reads from
// `next` on: blocks are scattered, so the CPU cannot foresee where the next one lies.
template <int kRows, int kKeys>
MOE_INLINE void ScoreTile(const AttentionTileArgs& args, const BFloat16* k, int num_valid,
                          uintptr_t next, float* scores) {
  F32x16 acc[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) acc[i] = Zero();
  const BFloat16* keys[kKeys];
#pragma GCC unroll 16
  for (int j = 0; j < kKeys; ++j) {
    keys[j] = k + int64_t{j < num_valid ? j : num_valid - 1} * args.head_dim;
  }
  int d = 0;
  for (; d + 16 <= args.head_dim; d += 16) {
#pragma GCC unroll 8
    for (int i = 0; i < (kKeys + 1) / 2; ++i) {
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
      next += kLine * sizeof(BFloat16);
    }
    F32x16 q[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) q[r] = Load(args.q[r] + d);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const F32x16 key = LoadBf16(keys[j] + d);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r * kKeys + j] = Fma(q[r], key, acc[r * kKeys + j]);
    }
  }
  if (d < args.head_dim) {
    const int left = args.head_dim - d;
    F32x16 q[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) q[r] = LoadPartial(args.q[r] + d, left, 0.0f);
#pragma GCC unroll 16
    for (int j = 0; j < kKeys; ++j) {
      const F32x16 key = LoadBf16Partial(keys[j] + d, left);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r * kKeys + j] = Fma(q[r], key, acc[r * kKeys + j]);
    }
  }
  alignas(64) float sums[16];
  if constexpr (kRows * kKeys > 4) {
    ReduceTree16(acc, sums);
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < kRows * kKeys; ++i) sums[i] = ReduceTree(acc[i]);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kKeys; ++j) {
      scores[r * args.scores_stride + j] = sums[r * kKeys + j] * args.scale;
    }
  }
}

template <int kRows>
MOE_INLINE void Scores(const AttentionTileArgs& args) {
  constexpr int kKeys = Columns(kRows);
  static_assert(kKvBlockTokens % kKeys == 0);
  const int num_keys = args.num_keys[kRows - 1];
  for (int first = 0; first < num_keys; first += kKvBlockTokens) {
    const int in_block = num_keys - first < kKvBlockTokens ? num_keys - first : kKvBlockTokens;
    const BFloat16* k = args.k + args.block_table[first / kKvBlockTokens] * args.block_stride;
    const int next_first = first + kKvBlockTokens;
    const BFloat16* next =
        next_first < num_keys
            ? args.k + args.block_table[next_first / kKvBlockTokens] * args.block_stride
            : args.v + args.block_table[0] * args.block_stride;
    for (int t = 0; t < in_block; t += kKeys) {
      const int64_t at = int64_t{t} * args.head_dim;
      ScoreTile<kRows, kKeys>(args, k + at, in_block - t,
                              reinterpret_cast<uintptr_t>(next) + at * sizeof(BFloat16),
                              args.scores + first + t);
    }
  }
}

// Replaces n scores by Exp(score - max) and returns their sum.
MOE_INLINE float ExpScores(float* scores, int n) {
  const float lowest = -__builtin_inff();
  F32x16 lanes = Set(lowest);
  int t = 0;
  for (; t + 16 <= n; t += 16) lanes = Max(Load(scores + t), lanes);
  if (t < n) lanes = Max(LoadPartial(scores + t, n - t, lowest), lanes);
  alignas(64) float values[16];
  Store(values, lanes);
  float max = lowest;
  for (const float value : values) max = value > max ? value : max;

  F32x16 sum = Zero();
  for (t = 0; t + 16 <= n; t += 16) {
    const F32x16 e = Exp(Sub(Load(scores + t), Set(max)));
    Store(scores + t, e);
    sum = Add(sum, e);
  }
  if (t < n) {  // Exp of the filler is 0, or NaN where every score gives NaN
    const F32x16 e = Exp(Sub(LoadPartial(scores + t, n - t, lowest), Set(max)));
    StorePartial(scores + t, e, n - t);
    sum = Add(sum, e);
  }
  return ReduceTree(sum);
}

// Elements [d, d + 16 * kVectors) of the outputs; with kPartial the last vector has `left`
// elements.
template <int kRows, int kVectors, bool kPartial>
MOE_INLINE void OutputTile(const AttentionTileArgs& args, const float* sums, int d, int left) {
  F32x16 acc[kRows * kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows * kVectors; ++i) acc[i] = Zero();
  const int num_common = args.num_keys[0];
  const int num_keys = args.num_keys[kRows - 1];
  for (int first = 0; first < num_keys; first += kKvBlockTokens) {
    const BFloat16* v = args.v + args.block_table[first / kKvBlockTokens] * args.block_stride + d;
    const int end = num_keys - first < kKvBlockTokens ? num_keys - first : kKvBlockTokens;
    const int left_common = num_common - first;
    const int common = left_common < 0 ? 0 : left_common < end ? left_common : end;
    const float* e = args.scores + first;
    const int next_first = first + kKvBlockTokens;
    const BFloat16* next_v =
        next_first < num_keys
            ? args.v + args.block_table[next_first / kKvBlockTokens] * args.block_stride + d
            : v;
    for (int t = 0; t < end; ++t) {
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; i += 2) {
        __builtin_prefetch(next_v + int64_t{t} * args.head_dim + 16 * i, 0, 2);
      }
      F32x16 value[kVectors];
#pragma GCC unroll 16
      for (int i = 0; i < kVectors; ++i) {
        const BFloat16* at = v + int64_t{t} * args.head_dim + 16 * i;
        value[i] = kPartial ? LoadBf16Partial(at, left) : LoadBf16(at);
      }
      if (t < common) {
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const F32x16 factor = Set(e[r * args.scores_stride + t]);
#pragma GCC unroll 16
          for (int i = 0; i < kVectors; ++i) {
            acc[r * kVectors + i] = Fma(factor, value[i], acc[r * kVectors + i]);
          }
        }
      } else {  // the causal edge: not all rows see this key
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          if (first + t >= args.num_keys[r]) continue;
          const F32x16 factor = Set(e[r * args.scores_stride + t]);
#pragma GCC unroll 16
          for (int i = 0; i < kVectors; ++i) {
            acc[r * kVectors + i] = Fma(factor, value[i], acc[r * kVectors + i]);
          }
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kVectors; ++i) {
      const F32x16 result = Div(acc[r * kVectors + i], Set(sums[r]));
      BFloat16* out = args.out[r] + d + 16 * i;
      if constexpr (kPartial) {
        StoreBf16Partial(out, result, left);
      } else {
        StoreBf16(out, result);
      }
    }
  }
}

template <int kRows>
MOE_INLINE void Attend(const AttentionTileArgs& args) {
  Scores<kRows>(args);
  float sums[kRows];
  for (int r = 0; r < kRows; ++r) {
    sums[r] = ExpScores(args.scores + r * args.scores_stride, args.num_keys[r]);
  }
  constexpr int kVectors = Columns(kRows) < 8 ? Columns(kRows) : 8;
  int d = 0;
  for (; d + 16 * kVectors <= args.head_dim; d += 16 * kVectors) {
    OutputTile<kRows, kVectors, false>(args, sums, d, 0);
  }
  for (; d + 16 <= args.head_dim; d += 16) OutputTile<kRows, 1, false>(args, sums, d, 0);
  if (d < args.head_dim) OutputTile<kRows, 1, true>(args, sums, d, args.head_dim - d);
}

}  // namespace

void AttentionTile(const AttentionTileArgs& args) {
  static_assert(kAttentionTileRows == 4);
  switch (args.num_rows) {
    case 1:
      return Attend<1>(args);
    case 2:
      return Attend<2>(args);
    case 3:
      return Attend<3>(args);
    default:
      return Attend<4>(args);
  }
}

void RoundToBf16(const float* x, int n, BFloat16* out) {
  int i = 0;
  for (; i + 16 <= n; i += 16) StoreBf16(out + i, Load(x + i));
  if (i < n) StoreBf16Partial(out + i, LoadPartial(x + i, n - i, 0.0f), n - i);
}

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
