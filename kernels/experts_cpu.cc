// See experts_cpu.h. Tested by tests/kernels/experts_test.cc.
#include "kernels/experts_cpu.h"

#include "kernels/dot_tile.h"

namespace moe::kernels::MOE_KERNEL_LEVEL {

void GateUpTile(const GateUpArgs& args) {
  static_assert(kGateUpOutputs % kPackedChunk == 0);
  alignas(64) float gate[kTileRows * kGateUpOutputs];
  alignas(64) float up[kTileRows * kGateUpOutputs];
  DotTileArgs dot;
  dot.x = args.x;
  dot.num_tokens = args.num_tokens;
  dot.num_outputs = args.num_outputs;
  dot.in_features = args.in_features;
  dot.out_stride = kGateUpOutputs;
  dot.weight = args.gate;
  dot.out = gate;
  DotTile(dot);
  dot.weight = args.up;
  dot.out = up;
  DotTile(dot);

  for (int t = 0; t < args.num_tokens; ++t) {
    // Half a chunk at a time, beyond num_outputs to the end of the last chunk.
    for (int o = 0; o < args.num_outputs; o += kPackedChunk) {
      BFloat16* out = args.hidden + (int64_t{o / kPackedChunk} * args.num_tokens + t) * kPackedChunk;
      for (int half = 0; half < kPackedChunk; half += 16) {
        const int at = t * kGateUpOutputs + o + half;
        const int left = args.num_outputs - o - half;
        const int n = left < 0 ? 0 : left < 16 ? left : 16;
        const F32x16 g = LoadPartial(gate + at, n, 0.0f);
        const F32x16 u = LoadPartial(up + at, n, 0.0f);
        StoreBf16(out + half, Mul(Mul(g, Sigmoid(g)), u));
      }
    }
  }
}

void DownTile(const DownArgs& args) {
  alignas(64) float sums[kTileRows * kDownOutputs];
  DotTileArgs dot;
  dot.x = args.hidden;
  dot.num_tokens = args.num_tokens;
  dot.weight = args.down;
  dot.num_outputs = args.num_outputs;
  dot.in_features = args.in_features;
  dot.out = sums;
  dot.out_stride = kDownOutputs;
  DotTile(dot);
  for (int t = 0; t < args.num_tokens; ++t) {
    const float* row = sums + t * kDownOutputs;
    int o = 0;
    for (; o + 16 <= args.num_outputs; o += 16) StoreBf16(args.out[t] + o, Load(row + o));
    if (o < args.num_outputs) {
      const int left = args.num_outputs - o;
      StoreBf16Partial(args.out[t] + o, LoadPartial(row + o, left, 0.0f), left);
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
