// Speed of the CPU engine: prefill and decode of an OLMoE-shaped model in one process, and with
// --ranks beside it with the experts in that many processes (one attention rank, whose threads are
// --threads; the others run one each, as under `moe serve`).
//
//   engine_bench --model DIR [--ranks 64] [--threads N] [--context 128] [--steps 16]
//                [--batches 1,8,32,64]
//
// A folder that does not exist is filled with random weights of OLMoE-1B-7B's shape and --layers
// layers. Prints one JSON object: tokens per second and milliseconds by part, medians over the
// steps. The two engines take turns step by step, since a machine's memory is shared with strangers
// and its speed changes from minute to minute.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "kernels/numerics.h"
#include "kernels/thread_pool.h"
#include "tests/bench/measure.h"
#include "tests/bench/ranks/rank_processes.h"
#include "tests/worker/model/checkpoint_writer.h"
#include "worker/exchange/shared_memory.h"
#include "worker/exchange/turns.h"
#include "worker/model/checkpoint.h"
#include "worker/model/forward.h"
#include "worker/model/reference_model.h"

namespace moe {
namespace {

using bench::Median;
using bench::OrDie;

struct Flags {
  std::string model;
  int layers = 4;
  int ranks = 1;
  int threads = 2;
  int repeats = 3;
  int context = 128;
  int steps = 16;
  int prompt = 512;
  std::vector<int> batches = {1, 8, 32, 64};
  bool turns = true;
  std::string level = "auto";
};

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

model::ModelConfig OlmoeOf(int num_layers) {
  model::ModelConfig config = model::OlmoeConfig();
  config.num_layers = num_layers;
  return config;
}

void MakeModelIfAbsent(const Flags& flags) {
  if (std::filesystem::exists(flags.model)) return;
  std::fprintf(stderr, "writing random weights of %d layers to %s\n", flags.layers,
               flags.model.c_str());
  OrDie(model::WriteRandomCheckpoint(flags.model, OlmoeOf(flags.layers), /*seed=*/1,
                                     {.init_std = 0.02F}));
}

constexpr char kEnd[] = "end";

kernels::CpuLevel Level(const Flags& flags) {
  return flags.level == "auto" ? kernels::DetectCpuLevel()
                               : OrDie(kernels::ParseCpuLevel(flags.level));
}

exchange::GroupShape Shape(const model::ModelConfig& config, int num_ranks) {
  exchange::GroupShape shape{.num_ranks = num_ranks,
                             .num_attention_ranks = 1,
                             .replicated = false,
                             .num_layers = config.num_layers,
                             .num_experts = config.num_experts,
                             .hidden = config.hidden,
                             .top_k = config.top_k,
                             .max_rows = 512,
                             .rank_of_expert = {}};
  for (int expert = 0; expert < config.num_experts; ++expert) {
    shape.rank_of_expert.push_back(expert % num_ranks);
  }
  return shape;
}

std::vector<int> ExpertsOf(const exchange::GroupShape& shape, int rank) {
  std::vector<int> experts;
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    if (shape.rank_of_expert[expert] == rank) experts.push_back(expert);
  }
  return experts;
}

exchange::SharedMemoryOptions ExchangeOptions(const Flags& flags, int num_ranks) {
  exchange::SharedMemoryOptions options;
  options.join_deadline = absl::Minutes(5);
  std::vector<int> cores = exchange::AllowedCores();
  if (flags.turns && num_ranks > static_cast<int>(cores.size())) options.cores = std::move(cores);
  return options;
}

// A rank that only holds experts: serves its mailbox until the leader ends.
void RunExpertRank(const Flags& flags, int rank, const std::string& bootstrap) {
  const kernels::ScopedFlushDenormals flush_denormals;
  const auto checkpoint = OrDie(model::Checkpoint::Open(flags.model));
  const exchange::GroupShape shape = Shape(checkpoint->config(), flags.ranks);
  const std::vector<int> held = ExpertsOf(shape, rank);
  const auto tensors = OrDie(checkpoint->SelectTensors(held, /*attention=*/false));
  (void)OrDie(checkpoint->Load(tensors, {}));
  kernels::ThreadPool pool({.num_threads = 1, .spin_microseconds = 0});
  const kernels::Context context{.level = Level(flags), .pool = &pool};
  model::RankExperts experts(checkpoint->config(), checkpoint->weights(), held, context);
  const auto group = OrDie(exchange::SharedMemoryGroup::Open(bootstrap, shape, 1, rank, &experts,
                                                             ExchangeOptions(flags, flags.ranks)));
  OrDie(group->Connect());
  while (OrDie(group->ReceivePlan()).plan != kEnd) {
  }
}

// Seconds of a step by part.
struct Parts {
  double attention = 0;  // with norms, router and the weighted sum
  double experts = 0;    // and the exchange
  double head = 0;
};

class Engine {
 public:
  // `others`: the ranks beside this one, if any.
  Engine(const Flags& flags, int num_ranks, bench::RankProcesses* others)
      : checkpoint_(OrDie(model::Checkpoint::Open(flags.model))),
        config_(checkpoint_->config()),
        num_ranks_(num_ranks),
        pool_({.num_threads = flags.threads, .spin_microseconds = 50}) {
    const kernels::Context context{.level = Level(flags), .pool = &pool_};
    const exchange::GroupShape shape = Shape(config_, num_ranks);
    std::vector<int> experts = ExpertsOf(shape, 0);
    const auto tensors = OrDie(checkpoint_->SelectTensors(experts, /*attention=*/true));
    (void)OrDie(checkpoint_->Load(tensors, {}));
    experts_ = std::make_unique<model::RankExperts>(config_, checkpoint_->weights(),
                                                    std::move(experts), context);
    const int most = *std::max_element(flags.batches.begin(), flags.batches.end());
    blocks_per_sequence_ =
        (std::max(flags.context + 2 * flags.steps, flags.prompt) + kernels::kKvBlockTokens - 1) /
        kernels::kKvBlockTokens;
    cache_ = OrDie(model::KvCache::Create(config_, blocks_per_sequence_ * most));
    decoder_ = std::make_unique<model::CpuDecoder>(
        config_, checkpoint_->weights(), cache_.get(),
        model::CpuDecoder::Options{.max_rows = 512, .max_positions = 0}, context);
    group_ = OrDie(exchange::SharedMemoryGroup::Create(shape, 1, experts_.get(),
                                                       ExchangeOptions(flags, num_ranks)));
    if (others != nullptr) others->Start(group_->bootstrap());
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
    auto begin = std::chrono::steady_clock::now();
    const auto note = [&begin](double* seconds) {
      *seconds += Seconds(begin);
      begin = std::chrono::steady_clock::now();
    };
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      decoder_->Attention(layer);
      decoder_->Route(layer, group_->rows());
      note(&parts_.attention);
      OrDie(group_->Dispatch(step_, layer, batch * count, decoder_->expert_ids()));
      const kernels::BFloat16* outputs = OrDie(group_->Combine());
      note(&parts_.experts);
      decoder_->Combine(outputs);
      note(&parts_.attention);
    }
    for (size_t first = 0; first < last_rows.size(); first += model::CpuDecoder::kMaxLogitRows) {
      const size_t num_rows =
          std::min<size_t>(model::CpuDecoder::kMaxLogitRows, last_rows.size() - first);
      const auto logits = decoder_->Logits(absl::MakeConstSpan(last_rows).subspan(first, num_rows));
      checksum_ += logits[0];
    }
    note(&parts_.head);
  }
  // Seconds since the last call.
  Parts TakeParts() { return std::exchange(parts_, {}); }
  void End() {
    std::vector<int> others(num_ranks_ - 1);
    std::iota(others.begin(), others.end(), 1);
    OrDie(group_->SendPlan(++step_, kEnd, others));
  }
  double checksum() const { return checksum_; }

 private:
  std::unique_ptr<model::Checkpoint> checkpoint_;
  const model::ModelConfig& config_;
  const int num_ranks_;
  kernels::ThreadPool pool_;
  std::unique_ptr<model::RankExperts> experts_;
  std::unique_ptr<model::KvCache> cache_;
  std::unique_ptr<model::CpuDecoder> decoder_;
  std::unique_ptr<exchange::SharedMemoryGroup> group_;
  int blocks_per_sequence_ = 0;
  std::vector<int32_t> tables_;
  uint64_t step_ = 0;
  double checksum_ = 0;
  Parts parts_;
};

// The steps of one case.
struct Samples {
  std::vector<double> seconds;
  std::vector<double> attention;
  std::vector<double> experts;
  std::vector<double> head;

  void Step(Engine* engine, const std::function<void()>& step) {
    (void)engine->TakeParts();
    const auto begin = std::chrono::steady_clock::now();
    step();
    seconds.push_back(Seconds(begin));
    const Parts parts = engine->TakeParts();
    attention.push_back(parts.attention);
    experts.push_back(parts.experts);
    head.push_back(parts.head);
  }
};

// What one engine reached, as members of a JSON object.
class Report {
 public:
  void Add(const std::string& name, int num_tokens, const Samples& samples) {
    char text[256];
    std::snprintf(text, sizeof(text),
                  "\"%s\": %.1f, \"%s_ms\": "
                  "{\"total\": %.2f, \"attention\": %.2f, \"experts\": %.2f, \"head\": %.2f}, ",
                  name.c_str(), num_tokens / Median(samples.seconds), name.c_str(),
                  1e3 * Median(samples.seconds), 1e3 * Median(samples.attention),
                  1e3 * Median(samples.experts), 1e3 * Median(samples.head));
    text_ += text;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void Run(const Flags& flags) {
  MakeModelIfAbsent(flags);
  // Before any thread exists.
  bench::RankProcesses others(flags.ranks, [&flags](int rank, const std::string& bootstrap) {
    RunExpertRank(flags, rank, bootstrap);
  });
  const kernels::ScopedFlushDenormals flush_denormals;
  std::vector<std::unique_ptr<Engine>> engines;
  engines.push_back(std::make_unique<Engine>(flags, 1, nullptr));
  if (flags.ranks > 1) engines.push_back(std::make_unique<Engine>(flags, flags.ranks, &others));
  std::vector<Report> reports(engines.size());

  // One case: the same steps of every engine in turn, the first of which is not counted.
  const auto measure = [&](const std::string& name, int num_tokens, int repeats,
                           const std::function<void(Engine*, int repeat)>& step) {
    std::vector<Samples> samples(engines.size());
    for (int repeat = 0; repeat <= repeats; ++repeat) {
      for (size_t i = 0; i < engines.size(); ++i) {
        Samples ignored;
        Samples& counted = repeat == 0 ? ignored : samples[i];
        counted.Step(engines[i].get(), [&] { step(engines[i].get(), repeat); });
      }
    }
    for (size_t i = 0; i < engines.size(); ++i) reports[i].Add(name, num_tokens, samples[i]);
  };

  measure("prefill_" + std::to_string(flags.prompt), flags.prompt, flags.repeats,
          [&](Engine* engine, int) { engine->Step(0, 1, 0, flags.prompt); });
  const int most = *std::max_element(flags.batches.begin(), flags.batches.end());
  const int at_once = std::max(1, 512 / flags.context);
  for (const auto& engine : engines) {
    for (int first = 0; first < most; first += at_once) {
      engine->Step(first, std::min(at_once, most - first), 0, flags.context);
    }
  }
  for (const int batch : flags.batches) {
    measure("decode_" + std::to_string(batch), batch, flags.steps,
            [&](Engine* engine, int step) { engine->Step(0, batch, flags.context + step, 1); });
  }
  for (const auto& engine : engines) {
    if (engine->checksum() == engines[0]->checksum()) continue;
    std::fprintf(stderr, "error: %d ranks computed other logits than one process\n", flags.ranks);
    std::exit(1);
  }
  std::printf("{\"one_process\": {%s\"checksum\": %.3f}", reports[0].text().c_str(),
              engines[0]->checksum());
  if (engines.size() > 1) {
    std::printf(", \"ranks\": {%s\"num_ranks\": %d}", reports[1].text().c_str(), flags.ranks);
  }
  std::printf("}\n");
  for (const auto& engine : engines) engine->End();
}

}  // namespace
}  // namespace moe

int main(int argc, char** argv) {
  moe::Flags flags;
  CLI::App app{"Prefill and decode speed of the CPU engine"};
  app.add_option("--model", flags.model)->required();
  app.add_option("--layers", flags.layers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--ranks", flags.ranks)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--repeats", flags.repeats)->check(CLI::Range(1, 99))->capture_default_str();
  app.add_option("--threads", flags.threads)->capture_default_str();
  app.add_option("--context", flags.context)->check(CLI::Range(1, 512))->capture_default_str();
  app.add_option("--steps", flags.steps)->capture_default_str();
  app.add_option("--prompt", flags.prompt)->check(CLI::Range(1, 512))->capture_default_str();
  app.add_option("--batches", flags.batches)->delimiter(',')->capture_default_str();
  app.add_flag("!--no-turns", flags.turns, "wake all ranks of a layer at once");
  app.add_option("--level", flags.level)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  moe::Run(flags);
}
