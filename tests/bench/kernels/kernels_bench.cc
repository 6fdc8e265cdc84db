// Speed of the kernels on the shapes of OLMoE-1B-7B (hidden 2048, 64 experts of 1024, top-8, 16
// heads of 128), on all CPUs of the machine.
//   kernels_bench --benchmark_filter=Experts --benchmark_repetitions=5
// GB_per_s counts the weights or the KV once, GFLOP_per_s two operations for each product. The
// environment variables MOE_BENCH_LEVEL and MOE_BENCH_THREADS choose another CPU level or number of
// threads.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "kernels/linear.h"
#include "kernels/log_softmax.h"
#include "kernels/rms_norm.h"
#include "kernels/router.h"

namespace moe::kernels {
namespace {

constexpr int kHidden = 2048;
constexpr int kIntermediate = 1024;
constexpr int kExperts = 64;
constexpr int kTopK = 8;
constexpr int kHeads = 16;
constexpr int kHeadDim = 128;
constexpr int kVocab = 50304;

int NumThreads() {
  const char* text = std::getenv("MOE_BENCH_THREADS");
  return text != nullptr ? std::max(1, std::atoi(text))
                         : static_cast<int>(std::thread::hardware_concurrency());
}

CpuLevel Level() {
  const char* text = std::getenv("MOE_BENCH_LEVEL");
  if (text == nullptr) return DetectCpuLevel();
  const absl::StatusOr<CpuLevel> level = ParseCpuLevel(text);
  if (!level.ok()) {
    std::fprintf(stderr, "%s\n", std::string(level.status().message()).c_str());
    std::exit(2);
  }
  return *level;
}

struct Machine {
  ThreadPool pool{{.num_threads = NumThreads()}};
  Context context{.level = Level(), .pool = &pool};
};

std::vector<BFloat16> RandomBf16(int64_t size) {
  std::minstd_rand random(1);
  std::vector<BFloat16> values(size);
  for (BFloat16& value : values) {
    value = ToBFloat16((static_cast<float>(random() % 2001) - 1000.0f) / 20000.0f);
  }
  return values;
}

std::vector<float> RandomFloats(int64_t size) {
  std::minstd_rand random(2);
  std::vector<float> values(size);
  for (float& value : values) value = (static_cast<float>(random() % 2001) - 1000.0f) / 1000.0f;
  return values;
}

void Report(benchmark::State& state, double num_bytes, double num_operations) {
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GB_per_s"] = rate(num_bytes);
  state.counters["GFLOP_per_s"] = rate(num_operations);
}

// Enough copies of a matrix that none is still in a cache when its turn comes again.
int NumCopies(int64_t num_bytes) {
  constexpr int64_t kBeyondCaches = 256 << 20;
  return static_cast<int>(std::max<int64_t>(1, kBeyondCaches / num_bytes));
}

void BM_Linear(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  const int out_features = static_cast<int>(state.range(1));
  Machine machine;
  const int64_t size = int64_t{kHidden} * out_features;
  const int num_copies = NumCopies(size * 2);
  const std::vector<BFloat16> weight = RandomBf16(size * num_copies);
  const std::vector<BFloat16> x = RandomBf16(int64_t{num_rows} * kHidden);
  std::vector<float> out(int64_t{num_rows} * out_features);
  int copy = 0;
  for (auto _ : state) {
    Linear(machine.context, x.data(), weight.data() + copy * size, num_rows, kHidden, out_features,
           out.data(), out_features);
    copy = (copy + 1) % num_copies;
  }
  Report(state, 2.0 * static_cast<double>(size), 2.0 * num_rows * static_cast<double>(size));
}
BENCHMARK(BM_Linear)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgNames({"rows", "out"})
    ->ArgsProduct({{1, 2, 4, 8, 16, 32, 64, 128, 512}, {kHidden}})
    ->Args({1, kExperts})
    ->Args({64, kExperts})
    ->Args({1, kVocab})
    ->Args({64, kVocab});

void BM_Experts(benchmark::State& state) {
  const int num_groups = static_cast<int>(state.range(0));
  const int rows_per_group = static_cast<int>(state.range(1));
  Machine machine;
  constexpr int64_t kMatrix = int64_t{kHidden} * kIntermediate;
  const std::vector<BFloat16> memory = RandomBf16(kMatrix * 3 * kExperts);
  const std::vector<BFloat16> x = RandomBf16(int64_t{rows_per_group} * kHidden);
  std::vector<BFloat16> out(int64_t{num_groups} * rows_per_group * kHidden);
  std::vector<std::vector<ExpertRow>> rows(num_groups);
  for (int group = 0; group < num_groups; ++group) {
    for (int i = 0; i < rows_per_group; ++i) {
      rows[group].push_back({.x_row = i, .out_row = group * rows_per_group + i});
    }
  }
  ExpertWorkspace workspace;
  int first = 0;
  for (auto _ : state) {
    std::vector<ExpertGroup> groups;
    for (int group = 0; group < num_groups; ++group) {
      const BFloat16* matrices = memory.data() + (first + group) % kExperts * 3 * kMatrix;
      groups.push_back(
          {.weights = {.gate = matrices, .up = matrices + kMatrix, .down = matrices + 2 * kMatrix},
           .rows = rows[group].data(),
           .num_rows = rows_per_group});
    }
    RunExperts(machine.context, groups.data(), num_groups, kHidden, kIntermediate, x.data(),
               kHidden, out.data(), &workspace);
    first = (first + num_groups) % kExperts;
  }
  const double weights = 3.0 * kMatrix * num_groups;
  Report(state, 2.0 * weights, 2.0 * weights * rows_per_group);
}
BENCHMARK(BM_Experts)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgNames({"experts", "rows"})
    ->Args({1, 1})
    ->ArgsProduct({{8}, {1, 2, 4}})
    ->ArgsProduct({{64}, {1, 2, 4, 6, 8, 12, 16, 32, 64, 512}});

void BM_AttentionDecode(benchmark::State& state) {
  const int batch = static_cast<int>(state.range(0));
  const int num_keys = static_cast<int>(state.range(1));
  Machine machine;
  const int blocks_per_sequence = (num_keys + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t block = int64_t{kHeads} * kHeadDim * kKvBlockTokens;
  std::vector<BFloat16> k = RandomBf16(block * blocks_per_sequence * batch);
  std::vector<BFloat16> v = k;
  std::vector<std::vector<int32_t>> tables(batch);
  std::vector<AttentionSlice> slices;
  for (int i = 0; i < batch; ++i) {
    for (int b = 0; b < blocks_per_sequence; ++b) tables[i].push_back(b * batch + i);
    slices.push_back(
        {.first_row = i, .start = num_keys - 1, .count = 1, .block_table = tables[i].data()});
  }
  const std::vector<float> q = RandomFloats(int64_t{batch} * kHidden);
  std::vector<BFloat16> out(int64_t{batch} * kHidden);
  const KvLayerView cache = {.k = k.data(),
                             .v = v.data(),
                             .block_stride = block,
                             .num_kv_heads = kHeads,
                             .head_dim = kHeadDim};
  for (auto _ : state) {
    PagedAttention(machine.context, slices.data(), batch, q.data(), kHidden, kHeads,
                   1.0f / std::sqrt(static_cast<float>(kHeadDim)), cache, out.data());
  }
  const double products = 2.0 * batch * num_keys * kHidden;
  Report(state, 2.0 * products, 2.0 * products);
}
BENCHMARK(BM_AttentionDecode)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgNames({"batch", "keys"})
    ->Args({1, 512})
    ->Args({1, 4096})
    ->Args({64, 32})
    ->Args({64, 512});

void BM_AttentionPrefill(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  Machine machine;
  const int num_blocks = (num_rows + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t block = int64_t{kHeads} * kHeadDim * kKvBlockTokens;
  std::vector<BFloat16> k = RandomBf16(block * num_blocks);
  std::vector<BFloat16> v = k;
  std::vector<int32_t> table;
  for (int b = 0; b < num_blocks; ++b) table.push_back(b);
  const AttentionSlice slice = {
      .first_row = 0, .start = 0, .count = num_rows, .block_table = table.data()};
  const std::vector<float> q = RandomFloats(int64_t{num_rows} * kHidden);
  std::vector<BFloat16> out(int64_t{num_rows} * kHidden);
  const KvLayerView cache = {.k = k.data(),
                             .v = v.data(),
                             .block_stride = block,
                             .num_kv_heads = kHeads,
                             .head_dim = kHeadDim};
  for (auto _ : state) {
    PagedAttention(machine.context, &slice, 1, q.data(), kHidden, kHeads,
                   1.0f / std::sqrt(static_cast<float>(kHeadDim)), cache, out.data());
  }
  const double products = 1.0 * num_rows * (num_rows + 1) * kHidden;  // K and V, half the square
  Report(state, 4.0 * num_rows * kHidden, 2.0 * products);
}
BENCHMARK(BM_AttentionPrefill)
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond)
    ->ArgName("rows")
    ->Arg(512)
    ->Arg(2048);

void BM_RmsNorm(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  Machine machine;
  const std::vector<float> x = RandomFloats(int64_t{num_rows} * kHidden);
  const std::vector<BFloat16> weight = RandomBf16(kHidden);
  std::vector<BFloat16> out(x.size());
  for (auto _ : state) {
    RmsNorm(machine.context, x.data(), weight.data(), 1e-5f, num_rows, kHidden, out.data());
  }
  Report(state, 6.0 * static_cast<double>(x.size()), 4.0 * static_cast<double>(x.size()));
}
BENCHMARK(BM_RmsNorm)->UseRealTime()->Unit(benchmark::kMicrosecond)->Arg(1)->Arg(64)->Arg(512);

void BM_Router(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  Machine machine;
  const std::vector<float> logits = RandomFloats(int64_t{num_rows} * kExperts);
  std::vector<int32_t> ids(int64_t{num_rows} * kTopK);
  std::vector<float> weights(ids.size());
  for (auto _ : state) {
    RouteTopK(machine.context, logits.data(), num_rows, kExperts, kTopK, false, ids.data(),
              weights.data());
  }
}
BENCHMARK(BM_Router)->UseRealTime()->Unit(benchmark::kMicrosecond)->Arg(1)->Arg(64)->Arg(512);

void BM_Combine(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0));
  Machine machine;
  const std::vector<BFloat16> y = RandomBf16(int64_t{num_rows} * kTopK * kHidden);
  const std::vector<float> weights = RandomFloats(int64_t{num_rows} * kTopK);
  std::vector<float> residual(int64_t{num_rows} * kHidden);
  for (auto _ : state) {
    CombineExperts(machine.context, y.data(), weights.data(), num_rows, kTopK, kHidden,
                   residual.data());
  }
  Report(state, 2.0 * static_cast<double>(y.size()), 2.0 * static_cast<double>(y.size()));
}
BENCHMARK(BM_Combine)->UseRealTime()->Unit(benchmark::kMicrosecond)->Arg(1)->Arg(64)->Arg(512);

void BM_LogSumExp(benchmark::State& state) {
  Machine machine;
  const std::vector<float> logits = RandomFloats(kVocab);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ComputeLogSumExp(machine.context, logits.data(), kVocab));
  }
}
BENCHMARK(BM_LogSumExp)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace moe::kernels

BENCHMARK_MAIN();
