#include "tests/bench/planner/engine_group.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <utility>
#include <vector>

#include "kernels/numerics.h"
#include "worker/engine/epoch_loop.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/engine/owner.h"
#include "worker/exchange/shared_memory.h"
#include "worker/exchange/turns.h"
#include "worker/model/checkpoint.h"
#include "worker/model/cpu_backend.h"
#include "worker/model/forward.h"

namespace moe::bench {
namespace {

constexpr uint64_t kEpoch = 1;

exchange::GroupShape ShapeOf(const model::ModelConfig& config, const EngineGroupOptions& options) {
  exchange::GroupShape shape{.num_ranks = options.num_ranks,
                             .num_attention_ranks = options.num_attention_ranks,
                             .num_layers = config.num_layers,
                             .num_experts = config.num_experts,
                             .hidden = config.hidden,
                             .top_k = config.top_k,
                             .max_rows = options.max_rows,
                             .rank_of_expert = {}};
  // In blocks, as the controller places them.
  for (int expert = 0; expert < config.num_experts; ++expert) {
    shape.rank_of_expert.push_back(expert * options.num_ranks / config.num_experts);
  }
  return shape;
}

// As moe-worker has them, but for more time to load.
exchange::SharedMemoryOptions ExchangeOptions(const EngineGroupOptions& options) {
  exchange::SharedMemoryOptions exchange;
  exchange.join_deadline = absl::Minutes(5);
  exchange.step_deadline = absl::Minutes(5);
  if (options.num_ranks == 1) exchange.spin = absl::Microseconds(50);
  const std::vector<int> cores = exchange::AllowedCores();
  if (options.num_ranks > static_cast<int>(cores.size())) exchange.cores = cores;
  return exchange;
}

}  // namespace

// Members are built in this order and point to earlier ones.
struct EngineGroup::Rank {
  exchange::GroupShape shape;
  std::unique_ptr<model::Checkpoint> checkpoint;
  model::StepTimes times;
  std::unique_ptr<model::RankModel> model;
  std::unique_ptr<engine::KvBlockPool> blocks;
  std::unique_ptr<engine::Owner> owner;  // null for a rank that only holds experts
  std::unique_ptr<exchange::SharedMemoryGroup> group;
  std::unique_ptr<model::LayerLoop> layers;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> current_step{0};

  absl::Status Connect() {
    if (absl::Status status = group->Connect(); !status.ok()) return status;
    auto made = model->MakeLayers({.host = group.get()});
    if (!made.ok()) return made.status();
    layers = *std::move(made);
    return absl::OkStatus();
  }
  engine::EpochRank AsEpochRank(int rank) {
    return {.epoch = kEpoch,
            .rank = rank,
            .num_ranks = shape.num_ranks,
            .replicated = false,
            .layers = layers.get(),
            .control = group.get(),
            .owner = owner.get(),
            .stop = &stop,
            .current_step = &current_step};
  }
};

absl::StatusOr<std::unique_ptr<EngineGroup::Rank>> EngineGroup::Load(
    const EngineGroupOptions& options, int rank) {
  auto loaded = std::make_unique<Rank>();
  auto checkpoint = model::Checkpoint::Open(options.model);
  if (!checkpoint.ok()) return checkpoint.status();
  loaded->checkpoint = *std::move(checkpoint);
  const model::ModelConfig& config = loaded->checkpoint->config();
  loaded->shape = ShapeOf(config, options);
  std::vector<int> experts;
  for (int expert = 0; expert < config.num_experts; ++expert) {
    if (loaded->shape.rank_of_expert[expert] == rank) experts.push_back(expert);
  }
  model::CpuBackend backend({.level = kernels::DetectCpuLevel()});
  auto model = backend.Load(
      *loaded->checkpoint,
      {.rank = rank,
       .num_ranks = options.num_ranks,
       .experts = std::move(experts),
       .attention = rank < options.num_attention_ranks,
       .max_rows = options.max_rows,
       .max_positions = options.max_positions,
       .kv_bytes = model::KvBlockBytes(config) * (options.kv_tokens / kernels::kKvBlockTokens),
       .num_threads = std::max(1, options.num_cores / options.num_attention_ranks)},
      &loaded->times, {});
  if (!model.ok()) return model.status();
  loaded->model = *std::move(model);
  if (rank >= options.num_attention_ranks) return loaded;
  loaded->blocks = std::make_unique<engine::KvBlockPool>(loaded->model->num_kv_blocks(),
                                                         kernels::kKvBlockTokens);
  loaded->owner = std::make_unique<engine::Owner>(
      engine::OwnerOptions{.rank = rank, .num_ranks = options.num_ranks}, loaded->model->decoder(),
      loaded->blocks.get(), loaded->model->context(), &loaded->times);
  return loaded;
}

absl::Status EngineGroup::Follow(const EngineGroupOptions& options, int rank,
                                 const std::string& bootstrap) {
  auto loaded = Load(options, rank);
  if (!loaded.ok()) return loaded.status();
  auto group =
      exchange::SharedMemoryGroup::Open(bootstrap, (*loaded)->shape, kEpoch, rank,
                                        (*loaded)->model->host_experts(), ExchangeOptions(options));
  if (!group.ok()) return group.status();
  (*loaded)->group = *std::move(group);
  if (absl::Status status = (*loaded)->Connect(); !status.ok()) return status;
  return engine::FollowEpoch((*loaded)->AsEpochRank(rank));
}

EngineGroup::EngineGroup(const EngineGroupOptions& options)
    : others_(options.num_ranks, [&options](int rank, const std::string& bootstrap) {
        const absl::Status status = Follow(options, rank, bootstrap);
        std::fprintf(stderr, "error: rank %d: %s\n", rank, std::string(status.message()).c_str());
      }) {}

EngineGroup::~EngineGroup() { others_.Kill(); }

absl::StatusOr<std::unique_ptr<EngineGroup>> EngineGroup::Start(const EngineGroupOptions& options) {
  auto group = std::unique_ptr<EngineGroup>(new EngineGroup(options));
  auto leader = Load(options, 0);
  if (!leader.ok()) return leader.status();
  group->leader_ = *std::move(leader);
  auto made = exchange::SharedMemoryGroup::Create(group->leader_->shape, kEpoch,
                                                  group->leader_->model->host_experts(),
                                                  ExchangeOptions(options));
  if (!made.ok()) return made.status();
  group->leader_->group = *std::move(made);
  group->others_.Start(group->leader_->group->bootstrap());
  if (absl::Status status = group->leader_->Connect(); !status.ok()) return status;
  return group;
}

int EngineGroup::vocab_size() const { return leader_->checkpoint->config().vocab_size; }

int EngineGroup::num_layers() const { return leader_->checkpoint->config().num_layers; }

const model::StepTimes& EngineGroup::times() const { return leader_->times; }

std::vector<uint64_t> EngineGroup::expert_tokens() const {
  const model::ExpertCounts& counts = leader_->model->expert_counts();
  std::vector<uint64_t> tokens;
  for (int layer = 0; layer < counts.num_layers(); ++layer) {
    for (size_t e = 0; e < counts.experts().size(); ++e) {
      tokens.push_back(counts.num_tokens(layer, static_cast<int>(e)));
    }
  }
  return tokens;
}

absl::StatusOr<double> EngineGroup::Run(engine::v1::StepPlan plan) {
  const kernels::ScopedFlushDenormals flush_denormals;
  plan.set_epoch(kEpoch);
  plan.set_step(++step_);
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<int> ranks = engine::RanksOfPlan(plan, leader_->AsEpochRank(0));
  absl::Status status = leader_->group->SendPlan(plan.step(), plan.SerializeAsString(), ranks);
  if (!status.ok()) return status;
  const auto own = leader_->owner->RunStep(plan, leader_->layers.get());
  if (!own.ok()) return own.status();
  const auto results = leader_->group->ReceiveResults(plan.step(), ranks);
  if (!results.ok()) return results.status();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const engine::v1::SequenceResult& result : own->results()) {
    if (!result.error().empty()) return absl::InternalError(result.error());
  }
  return seconds;
}

}  // namespace moe::bench
