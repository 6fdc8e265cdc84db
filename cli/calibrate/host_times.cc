#include "cli/calibrate/host_times.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/numerics.h"
#include "proto/step.pb.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/engine/owner.h"
#include "worker/exchange/shared_memory.h"
#include "worker/model/forward.h"

namespace moe::cli {
namespace {

using kernels::BFloat16;

constexpr int kFewLayers = 1;
constexpr int kManyLayers = 17;
constexpr uint64_t kSequence = 1;
constexpr int kPromptTokens = 4;

model::ModelConfig TinyConfig(int num_layers) {
  model::ModelConfig config;
  config.hidden = 64;
  config.intermediate = 32;
  config.num_layers = num_layers;
  config.num_heads = 4;
  config.num_kv_heads = 4;
  config.head_dim = 16;
  config.num_experts = 2;
  config.top_k = 1;
  config.vocab_size = 64;
  config.max_positions = 64;
  return config;
}

// Weights in memory; all matrices are the same one, large enough for each.
class TinyModel {
 public:
  explicit TinyModel(int num_layers)
      : config_(TinyConfig(num_layers)),
        values_(static_cast<size_t>(std::max(config_.hidden, config_.vocab_size)) * config_.hidden,
                kernels::ToBFloat16(0.01F)) {
    const BFloat16* any = values_.data();
    weights_.embed = weights_.final_norm = weights_.lm_head = any;
    for (int layer = 0; layer < num_layers; ++layer) {
      model::LayerWeights& w = weights_.layers.emplace_back();
      w.input_norm = w.post_attention_norm = w.q_norm = w.k_norm = any;
      w.q = w.k = w.v = w.o = w.gate = any;
      w.experts.assign(config_.num_experts, {.gate = any, .up = any, .down = any});
    }
  }
  TinyModel(const TinyModel&) = delete;
  TinyModel& operator=(const TinyModel&) = delete;

  const model::ModelConfig& config() const { return config_; }
  const model::ModelWeights& weights() const { return weights_; }

 private:
  const model::ModelConfig config_;
  const std::vector<BFloat16> values_;  // [max(hidden, vocab_size), hidden]
  model::ModelWeights weights_;
};

// The only rank of its group.
class Rank {
 public:
  static absl::StatusOr<std::unique_ptr<Rank>> Make(int num_layers,
                                                    const KernelTimeOptions& options) {
    auto rank = std::unique_ptr<Rank>(new Rank(num_layers, options));
    const model::ModelConfig& config = rank->model_.config();
    auto cache = model::KvCache::Create(config, rank->blocks_.num_blocks());
    if (!cache.ok()) return cache.status();
    rank->cache_ = *std::move(cache);
    rank->decoder_ = std::make_unique<model::CpuDecoder>(
        config, rank->model_.weights(), rank->cache_.get(),
        model::CpuDecoder::Options{.max_rows = config.max_positions}, rank->context_);
    exchange::GroupShape shape{.num_layers = config.num_layers,
                               .num_experts = config.num_experts,
                               .hidden = config.hidden,
                               .top_k = config.top_k,
                               .max_rows = config.max_positions,
                               .rank_of_expert = std::vector<int>(config.num_experts, 0)};
    auto group = exchange::SharedMemoryGroup::Create(shape, 1, &rank->experts_, {});
    if (!group.ok()) return group.status();
    rank->group_ = *std::move(group);
    if (absl::Status status = rank->group_->Connect(); !status.ok()) return status;
    rank->layers_ =
        std::make_unique<model::HostLayerLoop>(rank->decoder_.get(), rank->group_.get(), nullptr);
    rank->owner_ = std::make_unique<engine::Owner>(engine::OwnerOptions(), rank->decoder_.get(),
                                                   &rank->blocks_, rank->context_, nullptr);
    if (absl::Status status = rank->Prefill(); !status.ok()) return status;
    return rank;
  }

  // Seconds of one step in which the sequence decodes, always at the same position.
  absl::StatusOr<double> Decode() {
    engine::v1::StepPlan plan;
    engine::v1::SequenceSlice* slice = AddSlice(&plan);
    slice->set_start(kPromptTokens);
    slice->set_count(1);
    slice->set_token(1);
    return Run(&plan);
  }

 private:
  Rank(int num_layers, const KernelTimeOptions& options)
      : model_(num_layers),
        pool_({.num_threads = options.num_cores}),
        context_{.level = options.level, .pool = &pool_},
        experts_(model_.config(), model_.weights(), {0, 1}, context_),
        blocks_(/*num_blocks=*/4, kernels::kKvBlockTokens) {}

  static engine::v1::SequenceSlice* AddSlice(engine::v1::StepPlan* plan) {
    engine::v1::SequenceSlice* slice = plan->add_slices();
    slice->set_sequence_id(kSequence);
    slice->set_sample(true);
    return slice;
  }
  absl::Status Prefill() {
    engine::v1::StepPlan plan;
    engine::v1::NewSequence* added = plan.add_new_sequences();
    added->set_sequence_id(kSequence);
    engine::v1::SamplingParams* greedy = added->mutable_sampling();
    greedy->set_top_p(1);
    greedy->set_repetition_penalty(1);
    greedy->set_num_prompt_logprobs(-1);
    greedy->set_num_logprobs(-1);
    for (int token = 0; token < kPromptTokens; ++token) added->add_prompt_tokens(token);
    AddSlice(&plan)->set_count(kPromptTokens);
    return Run(&plan).status();
  }
  // As the leader's loop runs it: the plan is made, serialised and sent, the results are collected.
  absl::StatusOr<double> Run(engine::v1::StepPlan* plan) {
    const auto begin = std::chrono::steady_clock::now();
    plan->set_step(++step_);
    if (absl::Status status = group_->SendPlan(step_, plan->SerializeAsString(), {});
        !status.ok()) {
      return status;
    }
    const auto result = owner_->RunStep(*plan, layers_.get());
    if (!result.ok()) return result.status();
    if (!result->results(0).error().empty()) {
      return absl::InternalError(result->results(0).error());
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  const TinyModel model_;
  kernels::ThreadPool pool_;
  const kernels::Context context_;
  model::RankExperts experts_;
  engine::KvBlockPool blocks_;
  std::unique_ptr<model::KvCache> cache_;
  std::unique_ptr<model::CpuDecoder> decoder_;
  std::unique_ptr<exchange::SharedMemoryGroup> group_;
  std::unique_ptr<model::HostLayerLoop> layers_;
  std::unique_ptr<engine::Owner> owner_;
  uint64_t step_ = 0;
};

}  // namespace

absl::StatusOr<planner::HostTimes> MeasureHost(const KernelTimeOptions& options,
                                               const Progress& progress) {
  const kernels::ScopedFlushDenormals flush_denormals;
  std::vector<SumSample> samples;
  for (const int num_layers : {kFewLayers, kManyLayers}) {
    progress("host", num_layers == kFewLayers ? 0 : 0.5);
    const auto rank = Rank::Make(num_layers, options);
    if (!rank.ok()) return rank.status();
    std::vector<double> seconds;
    double elapsed = 0;
    while (elapsed < options.seconds_per_sample * options.num_rounds || seconds.size() < 9) {
      const auto step = (*rank)->Decode();
      if (!step.ok()) return step.status();
      seconds.push_back(*step);
      elapsed += *step;
    }
    samples.push_back(
        {.counts = {1, static_cast<double>(num_layers)}, .seconds = Median(std::move(seconds))});
  }
  const auto fitted = FitSum(samples);
  if (!fitted.ok()) return fitted.status();
  return planner::HostTimes{.step_seconds = (*fitted)[0], .layer_seconds = (*fitted)[1]};
}

}  // namespace moe::cli
