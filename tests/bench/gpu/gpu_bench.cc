// Speed of the engine on one GPU, beside what bounds it: decode steps of an OLMoE-shaped model and
// prompts, with their time by part.
//
//   gpu_bench --model DIR [--layers 16] [--batches 1,8,64] [--context 512] [--prompts 512,1024]
//             [--no-graphs] [--no-overlap] [--output FILE]
//
// A folder that does not exist is filled with random weights. A step is the engine's own: plan,
// graph, draws. The bound of a step is the planner's roofline (planner/forward_time.h) with the
// bandwidth that a copy within this GPU's memory reaches, measured here, and the vendor's peak of
// operations; a router without favourites. Parts are run apart, kernel by kernel, so their sum is
// more than a step that is launched as a graph. With --output all of it is written as JSON, with
// the GPU's name: results are kept in tests/bench/results.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/plan/inputs.h"
#include "device/buffer.h"
#include "device/device.h"
#include "kernels/context.h"
#include "nlohmann/json.hpp"
#include "planner/catalog/built_in.h"
#include "planner/forward_time.h"
#include "planner/layout.h"
#include "proto/step.pb.h"
#include "tests/bench/measure.h"
#include "tests/bench/plans/sequences.h"
#include "tests/worker/model/checkpoint_writer.h"
#include "worker/cuda/backend.h"
#include "worker/cuda/rank.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/engine/owner.h"
#include "worker/model/checkpoint.h"
#include "worker/model/forward.h"
#include "worker/model/reference_model.h"

namespace moe {
namespace {

using bench::Median;
using bench::OrDie;

struct Flags {
  std::string model;
  int layers = 16;
  bool tiny = false;  // a model of a few KB: to try this program on the emulator
  int gpu = 0;
  std::vector<int> batches = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  std::vector<int> prompts = {512, 1024};
  int context = 512;        // tokens of each sequence before it decodes
  int steps = 24;           // of decoding that count, for each batch
  int repeats = 5;          // of prompts and parts
  bool no_graphs = false;   // kernel by kernel, as prompts are
  bool no_overlap = false;  // a kernel begins when the one before it has ended
  std::string output;
};

// Steps that are not counted: the first one of a shape loads kernels, the second captures.
constexpr int kWarmUp = 3;

double SecondsOf(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int Most(const std::vector<int>& values) { return *std::max_element(values.begin(), values.end()); }

model::ModelConfig ConfigOf(const Flags& flags) {
  model::ModelConfig config = flags.tiny ? model::TinyConfig() : model::OlmoeConfig();
  if (!flags.tiny) config.num_layers = flags.layers;
  return config;
}

// Bytes per second of a copy within the GPU's memory, reads and writes together.
double MeasureBandwidth(const device::Stream& stream, int64_t size, int repeats) {
  const auto from = OrDie(device::DeviceBuffer<float>::Create(size));
  const auto to = OrDie(device::DeviceBuffer<float>::Create(size));
  OrDie(device::FillBytes(from, 1, stream));
  std::vector<double> seconds;
  for (int i = 0; i < repeats + kWarmUp; ++i) {
    OrDie(stream.Synchronize());
    const double taken = SecondsOf([&] {
      OrDie(
          device::CopyToDevice<float>({from.data(), static_cast<size_t>(size)}, to.data(), stream));
      OrDie(stream.Synchronize());
    });
    if (i >= kWarmUp) seconds.push_back(taken);
  }
  return 2.0 * sizeof(float) * static_cast<double>(size) / Median(seconds);
}

// A rank with all experts, and the engine's part of its steps.
class Engine {
 public:
  Engine(const Flags& flags, cuda::CudaBackend* backend)
      : checkpoint_(OrDie(model::Checkpoint::Open(flags.model))),
        max_rows_(std::max({Most(flags.batches), Most(flags.prompts), flags.context})) {
    const model::ModelConfig& config = checkpoint_->config();
    const int tokens = std::max(flags.context + kWarmUp + flags.steps + 1, Most(flags.prompts));
    const int64_t blocks = int64_t{Most(flags.batches)} *
                           ((tokens + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens);
    std::vector<int> experts(config.num_experts);
    for (int e = 0; e < config.num_experts; ++e) experts[e] = e;
    rank_ = OrDie(
        backend->Load(*checkpoint_,
                      {.experts = std::move(experts),
                       .max_rows = max_rows_,
                       .max_positions = std::min(tokens, config.max_positions),
                       .kv_bytes = model::KvBlockBytes(config) * static_cast<uint64_t>(blocks),
                       .step_deadline = absl::Minutes(2)},
                      &times_, {}));
    std::fprintf(stderr, "%s\n", rank_->description().c_str());
    layers_ = OrDie(rank_->MakeLayers({}));
    pool_ = std::make_unique<engine::KvBlockPool>(rank_->num_kv_blocks(), kernels::kKvBlockTokens);
    sequences_ = std::make_unique<bench::Sequences>(config.vocab_size, /*num_owners=*/1);
    owner_ = std::make_unique<engine::Owner>(engine::OwnerOptions(), rank_->decoder(), pool_.get(),
                                             rank_->context(), &times_);
  }

  cuda::CudaRank& rank() { return static_cast<cuda::CudaRank&>(*rank_); }
  const model::ModelConfig& config() const { return checkpoint_->config(); }

  // Seconds of one step that computes prompts of `length` tokens, of `count` new sequences.
  double Prompt(int count, int length) { return Run(sequences_->Add(count, length)); }
  // Seconds of one step in which the first `count` sequences advance by one token.
  double Decode(int count) { return Run(sequences_->Decode(count)); }
  // All begin anew.
  void Forget() {
    owner_->DropAll();
    sequences_->Clear();
  }
  int max_rows() const { return max_rows_; }

 private:
  double Run(engine::v1::StepPlan plan) {
    plan.set_step(++step_);
    return SecondsOf([&] {
      const auto result = OrDie(owner_->RunStep(plan, layers_.get()));
      for (const auto& sequence : result.results()) {
        if (!sequence.error().empty()) OrDie(absl::InternalError(sequence.error()));
      }
    });
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
  const int max_rows_;
  model::StepTimes times_;
  std::unique_ptr<model::RankModel> rank_;
  std::unique_ptr<model::LayerLoop> layers_;
  std::unique_ptr<engine::KvBlockPool> pool_;
  std::unique_ptr<engine::Owner> owner_;
  std::unique_ptr<bench::Sequences> sequences_;
  uint64_t step_ = 0;
};

// Seconds of all layers of a decode step, part by part, kernel by kernel.
struct Parts {
  double attention = 0;  // norms, projections, attention
  double route = 0;
  double experts = 0;  // with the sort of their rows
  double combine = 0;
};

Parts MeasureParts(const Flags& flags, cuda::CudaRank& rank, const model::ModelConfig& config,
                   int batch) {
  auto* const decoder = static_cast<cuda::CudaDecoder*>(rank.decoder());
  cuda::LocalDeviceExchange* const exchange = rank.local_exchange();
  const int blocks_each =
      (flags.context + 1 + kernels::kKvBlockTokens - 1) / kernels::kKvBlockTokens;
  std::vector<std::vector<int32_t>> tables(batch);
  std::vector<kernels::AttentionSlice> slices;
  for (int i = 0; i < batch; ++i) {
    for (int block = 0; block < blocks_each; ++block) tables[i].push_back(i * blocks_each + block);
    slices.push_back(
        {.first_row = i, .start = flags.context, .count = 1, .block_table = tables[i].data()});
  }
  const std::vector<int32_t> tokens(batch, 1);
  OrDie(decoder->Begin(slices, tokens));
  OrDie(decoder->Upload(std::nullopt));
  OrDie(exchange->BeginStep(1, {&batch, 1}, 0));
  OrDie(decoder->LookUp());
  const auto time = [&](const std::function<absl::Status(int layer)>& part) {
    std::vector<double> seconds;
    for (int repeat = 0; repeat < flags.repeats + kWarmUp; ++repeat) {
      OrDie(rank.stream().Synchronize());
      const double taken = SecondsOf([&] {
        for (int layer = 0; layer < config.num_layers; ++layer) OrDie(part(layer));
        OrDie(rank.stream().Synchronize());
      });
      if (repeat >= kWarmUp) seconds.push_back(taken);
    }
    return Median(std::move(seconds));
  };
  const kernels::BFloat16* outputs = nullptr;
  Parts parts;
  parts.attention = time([&](int layer) { return decoder->Attention(layer); });
  parts.route = time(
      [&](int layer) { return decoder->Route(layer, exchange->rows(), exchange->expert_ids()); });
  parts.experts = time([&](int layer) {
    const auto result = exchange->RunLayer(layer);
    if (result.ok()) outputs = *result;
    return result.status();
  });
  parts.combine = time([&](int) { return decoder->Combine(outputs); });
  OrDie(decoder->Finish({}, [](size_t, const model::LogitResult&) {}));
  return parts;
}

struct Bound {
  planner::Device device;  // with the measured bandwidth
  bool has_peak = false;
};

Bound BoundOf(const device::DeviceInfo& info, double bytes_per_second) {
  const auto devices = OrDie(planner::BuiltInDevices());
  const planner::Device* const known =
      planner::FindProduct(devices, absl::StrReplaceAll(info.name, {{" ", "-"}}));
  Bound bound;
  bound.has_peak = known != nullptr;
  if (known != nullptr) bound.device = *known;
  bound.device.memory_bytes_per_second = bytes_per_second;
  if (!bound.has_peak) bound.device.bf16_flops = 1e18;
  bound.device = planner::Ideal(bound.device);
  return bound;
}

double BoundSeconds(const Bound& bound, const planner::ModelShape& shape,
                    const planner::StepRows& rows) {
  const planner::Layout alone = OrDie(planner::ParseLayout("EP1"));
  return planner::TimeOfForward(shape, bound.device, planner::Ideal(planner::Network()),
                                planner::IdealAssumptions(), alone, rows)
      .total_seconds();
}

void Run(const Flags& flags) {
  if (!std::filesystem::exists(flags.model)) {
    std::fprintf(stderr, "writing random weights to %s\n", flags.model.c_str());
    OrDie(model::WriteRandomCheckpoint(flags.model, ConfigOf(flags), /*seed=*/1,
                                       {.init_std = 0.02F}));
  }
  const auto backend = OrDie(cuda::CudaBackend::Create({.ordinal = flags.gpu,
                                                        .graphs = !flags.no_graphs,
                                                        .overlap_kernels = !flags.no_overlap,
                                                        .cpu_level = kernels::DetectCpuLevel()}));
  OrDie(device::UseDevice(flags.gpu));
  double bandwidth = 0;
  {
    const auto stream = OrDie(device::Stream::Create());
    bandwidth = MeasureBandwidth(stream, flags.tiny ? 1 << 16 : int64_t{1} << 28, flags.repeats);
  }
  const Bound bound = BoundOf(backend->device(), bandwidth);
  std::printf(
      "%s: %.0f GB/s measured by copies; %s\n", backend->device().name.c_str(), bandwidth / 1e9,
      bound.has_peak
          ? absl::StrFormat("peak of %.0f TFLOP/s in bf16", bound.device.bf16_flops / 1e12).c_str()
          : "its peak of operations is not known, so bounds are those of its memory alone");
  Engine engine(flags, backend.get());
  const planner::ModelShape shape = OrDie(cli::ReadModel(flags.model));
  const planner::Layout alone = OrDie(planner::ParseLayout("EP1"));
  nlohmann::json results = {
      {"date", absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone())},
      {"gpu", backend->device().name},
      {"measured_bytes_per_second", bandwidth},
      {"layers", engine.config().num_layers},
      {"context", flags.context},
      {"graphs", !flags.no_graphs},
      {"overlaps_kernels", engine.rank().gpu().overlaps_kernels},
      {"decode", nlohmann::json::array()},
      {"prompts", nlohmann::json::array()}};

  std::printf("\nDecode, %d layers, %d tokens of context\n%6s%10s%12s%10s%9s   %s\n",
              engine.config().num_layers, flags.context, "batch", "ms", "tokens/s", "bound ms",
              "reached", "parts, kernel by kernel: attention, route, experts, combine");
  for (const int batch : flags.batches) {
    engine.Forget();
    const int at_once = std::max(1, engine.max_rows() / flags.context);
    for (int first = 0; first < batch; first += at_once) {
      engine.Prompt(std::min(at_once, batch - first), flags.context);
    }
    std::vector<double> steps;
    for (int i = 0; i < kWarmUp + flags.steps; ++i) {
      const double seconds = engine.Decode(batch);
      if (i >= kWarmUp) steps.push_back(seconds);
    }
    const double seconds = Median(steps);
    const double least =
        BoundSeconds(bound, shape, planner::DecodeRows(alone, batch, flags.context));
    engine.Forget();
    const Parts parts = MeasureParts(flags, engine.rank(), engine.config(), batch);
    std::printf("%6d%10.3f%12.0f%10.3f%8.0f%%   %.3f %.3f %.3f %.3f\n", batch, seconds * 1e3,
                batch / seconds, least * 1e3, 100 * least / seconds, parts.attention * 1e3,
                parts.route * 1e3, parts.experts * 1e3, parts.combine * 1e3);
    std::fflush(stdout);
    results["decode"].push_back({{"batch", batch},
                                 {"step_seconds", steps},
                                 {"bound_seconds", least},
                                 {"attention_seconds", parts.attention},
                                 {"route_seconds", parts.route},
                                 {"experts_seconds", parts.experts},
                                 {"combine_seconds", parts.combine}});
  }
  std::printf("\nOne prompt in one step\n%6s%10s%12s%10s%9s\n", "tokens", "ms", "tokens/s",
              "bound ms", "reached");
  for (const int length : flags.prompts) {
    std::vector<double> steps;
    for (int i = 0; i < kWarmUp + flags.repeats; ++i) {
      engine.Forget();
      const double seconds = engine.Prompt(1, length);
      if (i >= kWarmUp) steps.push_back(seconds);
    }
    const double seconds = Median(steps);
    const double least = BoundSeconds(bound, shape, planner::SinglePromptRows(alone, length));
    std::printf("%6d%10.3f%12.0f%10.3f%8.0f%%\n", length, seconds * 1e3, length / seconds,
                least * 1e3, 100 * least / seconds);
    results["prompts"].push_back(
        {{"tokens", length}, {"step_seconds", steps}, {"bound_seconds", least}});
  }
  if (flags.output.empty()) return;
  std::ofstream file(flags.output);
  file << results.dump(1) << "\n";
  if (!file.flush()) OrDie(absl::UnavailableError(absl::StrCat("cannot write ", flags.output)));
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Flags flags;
  CLI::App app{"Decode and prefill speed on one GPU, beside what bounds them"};
  app.add_option("--model", flags.model)->required();
  app.add_option("--layers", flags.layers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_flag("--tiny", flags.tiny, "a model of a few KB in place of OLMoE's shape");
  app.add_option("--gpu", flags.gpu)->capture_default_str();
  app.add_option("--batches", flags.batches)->delimiter(',')->check(CLI::Range(1, 4096));
  app.add_option("--prompts", flags.prompts)->delimiter(',')->check(CLI::Range(1, 4096));
  app.add_option("--context", flags.context)->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--steps", flags.steps)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--repeats", flags.repeats)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_flag("--no-graphs", flags.no_graphs, "launch decode steps kernel by kernel");
  app.add_flag("--no-overlap", flags.no_overlap,
               "let a kernel begin when the one before it has ended");
  app.add_option("--output", flags.output, "JSON with every step's time");
  CLI11_PARSE(app, argc, argv);
  moe::Run(flags);
}
