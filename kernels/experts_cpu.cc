// See experts_cpu.h. Tested by tests/kernels/experts_test.cc.
#include "kernels/experts_cpu.h"

#include "kernels/dot_tile.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

namespace {
constexpr int kRowsPerPass = kTilesPerPass * kTileRows;
}  // namespace

void GateUpTiles(const GateUpArgs& args) {
  static_assert(kGateUpOutputs == kPackedChunk);
  alignas(64) float gate[kRowsPerPass * kGateUpOutputs];
  alignas(64) float up[kRowsPerPass * kGateUpOutputs];
  DotTilesArgs dot;
  dot.x = args.x;
  dot.num_tiles = args.num_tiles;
  for (int i = 0; i < args.num_tiles; ++i) dot.tile_rows[i] = args.tile_rows[i];
  dot.num_outputs = args.num_outputs;
  dot.in_features = args.in_features;
  dot.out_stride = kGateUpOutputs;
  dot.weight = args.gate;
  dot.next_weight = args.up;
  dot.out = gate;
  DotTiles(dot);
  dot.weight = args.up;
  dot.next_weight = args.gate + int64_t{args.num_outputs} * args.in_features;
  dot.out = up;
  DotTiles(dot);

  const float* g_row = gate;
  const float* u_row = up;
  for (int i = 0; i < args.num_tiles; ++i) {
    BFloat16* out = args.hidden[i];
    for (int row = 0; row < args.tile_rows[i]; ++row) {
      for (int half = 0; half < kPackedChunk; half += 16) {
        const int left = args.num_outputs - half;
        const int n = left < 0 ? 0 : left < 16 ? left : 16;
        const F32x16 g = LoadPartial(g_row + half, n, 0.0f);
        const F32x16 u = LoadPartial(u_row + half, n, 0.0f);
        StoreBf16(out + half, Mul(Mul(g, Sigmoid(g)), u));
      }
      out += kPackedChunk;
      g_row += kGateUpOutputs;
      u_row += kGateUpOutputs;
    }
  }
}

void DownTiles(const DownArgs& args) {
  alignas(64) float sums[kRowsPerPass * kDownOutputs];
  DotTilesArgs dot;
  dot.x = args.hidden;
  dot.num_tiles = args.num_tiles;
  int num_rows = 0;
  for (int i = 0; i < args.num_tiles; ++i) {
    dot.tile_rows[i] = args.tile_rows[i];
    num_rows += args.tile_rows[i];
  }
  dot.weight = args.down;
  dot.num_outputs = args.num_outputs;
  dot.in_features = args.in_features;
  dot.out = sums;
  dot.out_stride = kDownOutputs;
  dot.next_weight = args.down + int64_t{args.num_outputs} * args.in_features;
  DotTiles(dot);
  for (int row = 0; row < num_rows; ++row) {
    const float* from = sums + row * kDownOutputs;
    BFloat16* to = args.out[row];
    int o = 0;
    for (; o + 16 <= args.num_outputs; o += 16) StoreBf16(to + o, Load(from + o));
    if (o < args.num_outputs) {
      const int left = args.num_outputs - o;
      StoreBf16Partial(to + o, LoadPartial(from + o, left, 0.0f), left);
    }
  }
}

void CombineRow(const BFloat16* y, const float* weights, int top_k, int hidden, float* residual) {
  int i = 0;
  for (; i + 16 <= hidden; i += 16) {
    F32x16 sum = Zero();
    for (int j = 0; j < top_k; ++j) {
      sum = Fma(Set(weights[j]), LoadBf16(y + int64_t{j} * hidden + i), sum);
    }
    Store(residual + i, Add(Load(residual + i), sum));
  }
  if (i < hidden) {
    const int left = hidden - i;
    F32x16 sum = Zero();
    for (int j = 0; j < top_k; ++j) {
      sum = Fma(Set(weights[j]), LoadBf16Partial(y + int64_t{j} * hidden + i, left), sum);
    }
    StorePartial(residual + i, Add(LoadPartial(residual + i, left, 0.0f), sum), left);
  }
}

}  // namespace moe::kernels::MOE_KERNEL_LEVEL
