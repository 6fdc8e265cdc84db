// Speed of the CPU engine in one process: prefill and decode of an OLMoE-shaped model.
//
//   engine_bench --model DIR [--threads N] [--context 128] [--steps 16] [--batches 1,8,32,64]
//
// A folder that does not exist is filled with random weights of OLMoE-1B-7B's shape and --layers
// layers. Prints one JSON object with tokens per second.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "kernels/numerics.h"
#include "kernels/thread_pool.h"
#include "tests/worker/model/checkpoint_writer.h"
#include "worker/exchange/shared_memory.h"
#include "worker/model/checkpoint.h"
#include "worker/model/forward.h"

namespace moe {
namespace {

struct Flags {
  std::string model;
  int layers = 4;
  int threads = 2;
  int context = 128;
  int steps = 16;
  int prompt = 512;
  std::vector<int> batches = {1, 8, 32, 64};
  std::string level = "auto";
};

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "error: %s\n", std::string(value.status().message()).c_str());
  std::exit(1);
}

void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

// allenai/OLMoE-1B-7B-0125-Instruct, config.json.
model::ModelConfig OlmoeConfig(int num_layers) {
  model::ModelConfig config;
  config.hidden = 2048;
  config.intermediate = 1024;
  config.num_layers = num_layers;
  config.num_heads = 16;
  config.num_kv_heads = 16;
  config.head_dim = 128;
  config.num_experts = 64;
  config.top_k = 8;
  config.vocab_size = 50304;
  config.max_positions = 4096;
  config.eos_token_ids = {50279};
  return config;
}

void MakeModelIfAbsent(const Flags& flags) {
  if (std::filesystem::exists(flags.model)) return;
  std::fprintf(stderr, "writing random weights of %d layers to %s\n", flags.layers,
               flags.model.c_str());
  OrDie(model::WriteRandomCheckpoint(flags.model, OlmoeConfig(flags.layers), /*seed=*/1,
                                     {.init_std = 0.02F}));
}

class Engine {
 public:
  explicit Engine(const Flags& flags)
      : checkpoint_(OrDie(model::Checkpoint::Open(flags.model))),
        config_(checkpoint_->config()),
        pool_({.num_threads = flags.threads, .spin_microseconds = 50}) {
    const kernels::Context context{.level = flags.level == "auto"
                                                ? kernels::DetectCpuLevel()
                                                : OrDie(kernels::ParseCpuLevel(flags.level)),
                                   .pool = &pool_};
    std::vector<int> experts(config_.num_experts);
    std::iota(experts.begin(), experts.end(), 0);
    const auto tensors = OrDie(checkpoint_->SelectTensors(experts, /*attention=*/true));
    (void)OrDie(checkpoint_->Load(tensors, {}));
    experts_ = std::make_unique<model::RankExperts>(config_, checkpoint_->weights(),
                                                    std::move(experts), context);
    const int most = *std::max_element(flags.batches.begin(), flags.batches.end());
    blocks_per_sequence_ =
        (std::max(flags.context + 2 * flags.steps, flags.prompt) + kernels::kKvBlockTokens - 1) /
        kernels::kKvBlockTokens;
    cache_ = OrDie(model::KvCache::Create(config_, blocks_per_sequence_ * most));
    decoder_ = std::make_unique<model::DecoderModel>(
        config_, checkpoint_->weights(), cache_.get(),
        model::DecoderModel::Options{.max_rows = 512, .max_positions = 0}, context);
    exchange::GroupShape shape{.num_ranks = 1,
                               .num_attention_ranks = 1,
                               .replicated = false,
                               .num_layers = config_.num_layers,
                               .num_experts = config_.num_experts,
                               .hidden = config_.hidden,
                               .top_k = config_.top_k,
                               .max_rows = 512,
                               .rank_of_expert = std::vector<int>(config_.num_experts, 0)};
    group_ = OrDie(exchange::SharedMemoryGroup::Create(shape, 1, experts_.get(), {}));
    OrDie(group_->Connect());
    tables_.resize(size_t(most) * blocks_per_sequence_);
    std::iota(tables_.begin(), tables_.end(), 0);
  }

  // One step: `count` rows at `start` of sequences [first, first + batch), logits of each last row.
  void Step(int first_sequence, int batch, int start, int count) {
    std::vector<kernels::AttentionSlice> slices;
    std::vector<int32_t> tokens;
    std::vector<int> last_rows;
    for (int i = 0; i < batch; ++i) {
      slices.push_back(
          {.first_row = i * count,
           .start = start,
           .count = count,
           .block_table = tables_.data() + size_t(first_sequence + i) * blocks_per_sequence_});
      for (int t = 0; t < count; ++t) {
        tokens.push_back(
            static_cast<int32_t>((i * 7919 + (start + t) * 104729 + 13) % config_.vocab_size));
      }
      last_rows.push_back((i + 1) * count - 1);
    }
    OrDie(group_->SendPlan(++step_, "", {}));
    OrDie(decoder_->Begin(slices, tokens));
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      decoder_->Attention(layer);
      decoder_->Route(layer, group_->rows());
      OrDie(group_->Dispatch(step_, layer, batch * count, decoder_->expert_ids()));
      decoder_->Combine(OrDie(group_->Combine()));
    }
    for (size_t first = 0; first < last_rows.size(); first += model::DecoderModel::kMaxLogitRows) {
      const size_t num_rows =
          std::min<size_t>(model::DecoderModel::kMaxLogitRows, last_rows.size() - first);
      const auto logits = decoder_->Logits(absl::MakeConstSpan(last_rows).subspan(first, num_rows));
      checksum_ += logits[0];
    }
  }
  double checksum() const { return checksum_; }

 private:
  std::unique_ptr<model::Checkpoint> checkpoint_;
  const model::ModelConfig& config_;
  kernels::ThreadPool pool_;
  std::unique_ptr<model::RankExperts> experts_;
  std::unique_ptr<model::KvCache> cache_;
  std::unique_ptr<model::DecoderModel> decoder_;
  std::unique_ptr<exchange::SharedMemoryGroup> group_;
  int blocks_per_sequence_ = 0;
  std::vector<int32_t> tables_;
  uint64_t step_ = 0;
  double checksum_ = 0;
};

void Run(const Flags& flags) {
  const kernels::ScopedFlushDenormals flush_denormals;
  MakeModelIfAbsent(flags);
  Engine engine(flags);
  engine.Step(0, 1, 0, flags.prompt);  // warm-up
  auto begin = std::chrono::steady_clock::now();
  engine.Step(0, 1, 0, flags.prompt);
  std::printf("{\"prefill_%d\": %.1f", flags.prompt, flags.prompt / Seconds(begin));
  const int most = *std::max_element(flags.batches.begin(), flags.batches.end());
  const int at_once = std::max(1, 512 / flags.context);
  for (int first = 0; first < most; first += at_once) {
    engine.Step(first, std::min(at_once, most - first), 0, flags.context);
  }
  for (const int batch : flags.batches) {
    engine.Step(0, batch, flags.context, 1);
    begin = std::chrono::steady_clock::now();
    for (int step = 1; step <= flags.steps; ++step) engine.Step(0, batch, flags.context + step, 1);
    std::printf(", \"decode_%d\": %.1f", batch, batch * flags.steps / Seconds(begin));
  }
  std::printf(", \"checksum\": %.3f}\n", engine.checksum());
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Flags flags;
  CLI::App app{"Prefill and decode speed of the CPU engine"};
  app.add_option("--model", flags.model)->required();
  app.add_option("--layers", flags.layers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--threads", flags.threads)->capture_default_str();
  app.add_option("--context", flags.context)->check(CLI::Range(1, 512))->capture_default_str();
  app.add_option("--steps", flags.steps)->capture_default_str();
  app.add_option("--prompt", flags.prompt)->check(CLI::Range(1, 512))->capture_default_str();
  app.add_option("--batches", flags.batches)->delimiter(',')->capture_default_str();
  app.add_option("--level", flags.level)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  moe::Run(flags);
}
