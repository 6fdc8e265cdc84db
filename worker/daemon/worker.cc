#include "worker/daemon/worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "spdlog/spdlog.h"
#include "worker/exchange/turns.h"

namespace moe::worker {
namespace {

absl::StatusOr<exchange::GroupShape> MakeShape(const coordinator::v1::GroupSpec& spec,
                                               const model::ModelConfig& config) {
  exchange::GroupShape shape;
  shape.num_ranks = static_cast<int>(spec.num_slots());
  shape.num_attention_ranks = static_cast<int>(spec.num_attention_ranks());
  shape.replicated = spec.replicated_attention();
  shape.num_layers = config.num_layers;
  shape.num_experts = config.num_experts;
  shape.hidden = config.hidden;
  shape.top_k = config.top_k;
  shape.max_rows = static_cast<int>(spec.limits().max_step_tokens());
  shape.rank_of_expert.assign(config.num_experts, -1);
  for (const coordinator::v1::ExpertPlacement& placement : spec.placement()) {
    if (placement.expert() >= static_cast<uint32_t>(config.num_experts) ||
        placement.slots_size() == 0 || placement.slots(0) >= spec.num_slots()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the assignment places expert %d, and the model has %d experts",
                          placement.expert(), config.num_experts));
    }
    if (shape.rank_of_expert[placement.expert()] >= 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the assignment places expert %d twice", placement.expert()));
    }
    shape.rank_of_expert[placement.expert()] = static_cast<int>(placement.slots(0));
  }
  for (int expert = 0; expert < config.num_experts; ++expert) {
    if (shape.rank_of_expert[expert] < 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the assignment leaves out expert %d", expert));
    }
  }
  if (shape.num_ranks < 1 || shape.num_attention_ranks < 1 ||
      shape.num_attention_ranks > shape.num_ranks || shape.max_rows < 1) {
    return absl::InvalidArgumentError("the assignment's sizes contradict each other");
  }
  return shape;
}

std::vector<int> ExpertsOfRank(const exchange::GroupShape& shape, int rank) {
  std::vector<int> experts;
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    if (shape.rank_of_expert[expert] == rank) experts.push_back(expert);
  }
  return experts;
}

bool SameProcess(const membership::EpochMember& a, const membership::EpochMember& b) {
  return a.worker_id == b.worker_id && a.nonce == b.nonce;
}

}  // namespace

Worker::Worker(const WorkerOptions& options, engine::EngineService* service, WorkerMetrics* metrics)
    : options_(options),
      service_(service),
      metrics_(metrics),
      means_({.on_device = options.backend->on_device(),
              .device_groups = options.device_groups,
              .listener = options.exchange_listener,
              // Those of the process, before an exchange places its threads.
              .cores = exchange::AllowedCores()}) {}

Worker::~Worker() {
  std::shared_ptr<GroupExchange> group;
  {
    absl::MutexLock lock(&mutex_);
    quit_ = true;
    epoch_over_ = true;
    group = group_;
  }
  if (group != nullptr) group->Abort("the worker is ending");
  if (engine_thread_.joinable()) engine_thread_.join();
  {
    const absl::MutexLock lock(&mutex_);
    leader_ = nullptr;
  }
  service_->ClearLeader();
  metrics_->SetEpoch(0, nullptr);
  metrics_->SetExperts(nullptr);
}

void Worker::Start(membership::Membership* membership) {
  membership_ = membership;
  engine_thread_ = std::thread([this] { RunEngineThread(); });
}

absl::Status Worker::Wait() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](std::optional<absl::Status>* outcome) { return outcome->has_value(); }, &outcome_));
  return *outcome_;
}

void Worker::Fail(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  if (!outcome_.has_value()) outcome_ = std::move(status);
}

void Worker::Shutdown() { Fail(absl::OkStatus()); }

void Worker::FinishEpoch() {
  absl::MutexLock lock(&mutex_);
  leaving_ = true;
  if (running_epoch_ == 0 && !outcome_.has_value()) outcome_ = absl::OkStatus();
}

void Worker::Push(Command command) {
  absl::MutexLock lock(&mutex_);
  commands_.push_back(std::move(command));
}

void Worker::OnAssign(const coordinator::v1::GroupSpec& spec, int slot) {
  Push(Assign{.spec = spec, .slot = slot});
}

void Worker::OnPrepare(uint64_t epoch, const std::vector<membership::EpochMember>& members) {
  Push(Prepare{.epoch = epoch, .members = members});
}

void Worker::OnJoin(uint64_t epoch, const std::string& bootstrap) {
  Push(Join{.epoch = epoch, .bootstrap = bootstrap});
}

void Worker::OnActivate(uint64_t epoch) { Push(Activate{.epoch = epoch}); }

void Worker::OnAbort(uint64_t epoch, const std::string& reason) {
  std::shared_ptr<GroupExchange> group;
  {
    absl::MutexLock lock(&mutex_);
    aborted_epoch_ = std::max(aborted_epoch_, epoch);
    if (group_ == nullptr || group_epoch_ > aborted_epoch_) return;
    epoch_over_ = true;
    group = group_;
  }
  // Without the lock: the end of a communicator takes NCCL a while.
  group->Abort(reason);
}

void Worker::OnDismiss(const std::string& reason) {
  spdlog::info("dismissed: {}", reason);
  Shutdown();
}

void Worker::OnConnectionState(bool connected) {
  // Not a warning: at the end of `moe serve` the controller goes first.
  if (!connected) spdlog::info("no connection to the controller; what runs goes on");
}

coordinator::v1::Heartbeat Worker::MakeHeartbeat() {
  coordinator::v1::Heartbeat heartbeat;
  heartbeat.set_step(current_step_.load(std::memory_order_relaxed));
  metrics_->FillHeartbeat(&heartbeat);
  const absl::MutexLock lock(&mutex_);
  if (leader_ != nullptr) {
    const engine::v1::EngineStats stats = leader_->stats();
    heartbeat.set_num_running(stats.num_running());
    heartbeat.set_num_waiting(stats.num_waiting());
  }
  return heartbeat;
}

void Worker::RunEngineThread() {
  while (true) {
    Command command;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](Worker* worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(worker->mutex_) {
            return worker->quit_ || !worker->commands_.empty();
          },
          this));
      if (quit_) break;
      command = std::move(commands_.front());
      commands_.pop_front();
    }
    if (const auto* assign = std::get_if<Assign>(&command)) {
      if (absl::Status status = Load(*assign); !status.ok()) {
        membership_->SendUnable(std::string(status.message()));
        Fail(std::move(status));
      }
    } else if (const auto* prepare = std::get_if<Prepare>(&command)) {
      HandlePrepare(*prepare);
    } else if (const auto* join = std::get_if<Join>(&command)) {
      HandleJoin(*join);
    } else {
      HandleActivate(std::get<Activate>(command));
    }
  }
  DropGroup();
}

absl::Status Worker::Load(const Assign& assign) {
  auto loaded = std::make_unique<Loaded>();
  loaded->spec = assign.spec;
  loaded->slot = assign.slot;
  metrics_->SetSlot(assign.slot);
  const bool uses_nccl = assign.spec.exchange() == coordinator::v1::EXCHANGE_NCCL;
  absl::Status possible =
      CheckExchange(assign.spec.exchange(), static_cast<int>(assign.spec.num_slots()), means_);
  // What is missing is said now, not after minutes of loading.
  if (possible.ok() && uses_nccl) possible = means_.device_groups->Load();
  if (!possible.ok()) return possible;
  auto checkpoint = model::Checkpoint::Open(
      options_.model_dir, {.converted_weights_path = options_.converted_weights_path});
  if (!checkpoint.ok()) return checkpoint.status();
  loaded->checkpoint = *std::move(checkpoint);

  auto shape = MakeShape(assign.spec, loaded->checkpoint->config());
  if (!shape.ok()) return shape.status();
  loaded->shape = *std::move(shape);
  if (assign.slot < 0 || assign.slot >= loaded->shape.num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrFormat("slot %d of a group of %d", assign.slot, loaded->shape.num_ranks));
  }
  const model::ModelConfig& config = loaded->checkpoint->config();
  const coordinator::v1::EngineLimits& limits = assign.spec.limits();
  const int max_context =
      limits.max_context() > 0
          ? std::min(static_cast<int>(limits.max_context()), config.max_positions)
          : config.max_positions;
  RankPlace place{.shape = loaded->shape, .rank = loaded->slot};
  if (limits.step_deadline_seconds() > 0) {
    place.step_deadline = absl::Seconds(limits.step_deadline_seconds());
  }
  auto rank = options_.backend->Load(
      *loaded->checkpoint,
      {.rank = loaded->slot,
       .num_ranks = loaded->shape.num_ranks,
       .experts = ExpertsOfRank(loaded->shape, loaded->slot),
       .attention = loaded->has_attention(),
       .replicated = loaded->replicated(),
       .max_rows = loaded->shape.max_rows,
       .max_positions = max_context,
       .kv_bytes = limits.kv_bytes(),
       .exchange_bytes =
           uses_nccl ? means_.device_groups->DeviceBytes(loaded->shape, loaded->slot) : 0,
       .num_threads = std::max(1, static_cast<int>(limits.attention_threads())),
       .step_deadline = place.step_deadline},
      metrics_->step_times(),
      [this](uint64_t done, uint64_t total) { membership_->SendLoadProgress(done, total); });
  if (!rank.ok()) return rank.status();
  loaded->model = *std::move(rank);
  if (!loaded->model->description().empty()) spdlog::info("{}", loaded->model->description());
  auto exchanges = MakeExchangeMaker(assign.spec.exchange(), place, means_, loaded->model.get());
  if (!exchanges.ok()) return exchanges.status();
  loaded->exchanges = *std::move(exchanges);
  if (loaded->has_attention()) {
    if (absl::Status status = BuildOwner(loaded.get(), max_context); !status.ok()) return status;
  }

  const model::LoadReport& report = loaded->model->report();
  coordinator::v1::Loaded message;
  message.set_bytes(report.num_bytes);
  message.set_seconds(report.seconds);
  message.set_resident_bytes(report.resident_bytes);
  message.set_model_digest(loaded->checkpoint->digest());
  if (loaded->kv_blocks != nullptr) {
    message.set_kv_capacity_tokens(uint64_t(loaded->kv_blocks->num_blocks()) *
                                   kernels::kKvBlockTokens);
  }
  for (const std::string& warning : loaded->checkpoint->warnings()) message.add_warnings(warning);
  for (const std::string& warning : report.warnings) message.add_warnings(warning);
  metrics_->SetLoad({.num_bytes = report.num_bytes,
                     .resident_bytes = report.resident_bytes,
                     .seconds = report.seconds,
                     .kv_capacity_tokens = message.kv_capacity_tokens()});
  metrics_->SetExperts(&loaded->model->expert_counts());
  loaded_ = std::move(loaded);
  if (loaded_->leader != nullptr) {
    {
      const absl::MutexLock lock(&mutex_);
      leader_ = loaded_->leader.get();
    }
    service_->SetLeader(loaded_->leader.get(), loaded_->checkpoint->digest());
  }
  membership_->SendLoaded(message);
  return absl::OkStatus();
}

absl::Status Worker::BuildOwner(Loaded* loaded, int max_context) {
  loaded->kv_blocks = std::make_unique<engine::KvBlockPool>(loaded->model->num_kv_blocks(),
                                                            kernels::kKvBlockTokens);
  loaded->owner = std::make_unique<engine::Owner>(
      engine::OwnerOptions{.rank = loaded->slot,
                           .num_ranks = loaded->shape.num_ranks,
                           .replicated = loaded->replicated(),
                           .samples = !loaded->replicated() || loaded->slot == 0},
      loaded->model->decoder(), loaded->kv_blocks.get(), loaded->model->context(),
      metrics_->step_times());
  if (loaded->slot == 0) {
    auto leader = MakeLeader(*loaded, max_context);
    if (!leader.ok()) return leader.status();
    loaded->leader = *std::move(leader);
  }
  return absl::OkStatus();
}

bool Worker::AdoptGroup(uint64_t epoch, std::shared_ptr<GroupExchange> group) {
  absl::MutexLock lock(&mutex_);
  if (quit_ || epoch <= aborted_epoch_) return false;
  group_ = std::move(group);
  group_epoch_ = epoch;
  epoch_over_ = false;
  return true;
}

void Worker::DropGroup() {
  metrics_->SetEpoch(0, nullptr);
  std::shared_ptr<GroupExchange> group;
  {
    absl::MutexLock lock(&mutex_);
    group.swap(group_);
  }
  // Others that are still in it learn that it is over, not that this rank died.
  if (group != nullptr) group->Abort("the epoch is over");
}

void Worker::EpochFailed(uint64_t epoch, const absl::Status& status, int suspect) {
  const bool lost = options_.backend->IsLost(status);
  if (!absl::IsAborted(status)) {
    membership_->SendEpochFailed(epoch, std::string(status.message()),
                                 lost ? loaded_->slot : suspect);
  }
  // The next epoch needs a process that can compute.
  if (lost) Fail(status);
}

void Worker::HandlePrepare(const Prepare& prepare) {
  DropGroup();
  if (loaded_ == nullptr) return;  // the controller prepares only what said Loaded
  prepared_members_ = prepare.members;
  std::string bootstrap;
  if (loaded_->slot == 0) {
    auto group = MakeExchange(prepare.epoch, "");
    if (!group.ok()) {
      membership_->SendEpochFailed(prepare.epoch, std::string(group.status().message()),
                                   loaded_->slot);
      return;
    }
    bootstrap = (*group)->bootstrap();
    if (!AdoptGroup(prepare.epoch, *std::move(group))) return;
  }
  membership_->SendPrepared(prepare.epoch, std::move(bootstrap));
}

void Worker::HandleJoin(const Join& join) {
  if (loaded_ == nullptr) return;
  if (loaded_->slot != 0) {
    auto group = MakeExchange(join.epoch, join.bootstrap);
    if (!group.ok()) {
      membership_->SendEpochFailed(join.epoch, std::string(group.status().message()), -1);
      return;
    }
    if (!AdoptGroup(join.epoch, *std::move(group))) return;
  }
  std::shared_ptr<GroupExchange> group;
  {
    absl::MutexLock lock(&mutex_);
    if (join.epoch <= aborted_epoch_ || group_epoch_ != join.epoch) return;
    group = group_;
  }
  if (group == nullptr) return;
  if (absl::Status status = group->Connect(); !status.ok()) {
    EpochFailed(join.epoch, status, group->suspect());
    return;
  }
  membership_->SendJoined(join.epoch);
}

void Worker::HandleActivate(const Activate& activate) {
  std::shared_ptr<GroupExchange> group;
  {
    absl::MutexLock lock(&mutex_);
    if (leaving_ || activate.epoch <= aborted_epoch_ || group_epoch_ != activate.epoch) return;
    group = group_;
    if (group == nullptr || loaded_ == nullptr) return;
    running_epoch_ = activate.epoch;
  }
  metrics_->SetEpoch(activate.epoch, group);
  ForgetLostSequences(activate.epoch);

  service_->SetEpochRunning(true);
  const absl::Status status = RunEpoch(activate.epoch, group.get());
  service_->SetEpochRunning(false);
  metrics_->SetEpoch(0, nullptr);
  if (!absl::IsAborted(status)) {
    spdlog::error("epoch {} ends: {}", activate.epoch, std::string(status.message()));
  }
  EpochFailed(activate.epoch, status, group->suspect());
  absl::MutexLock lock(&mutex_);
  running_epoch_ = 0;
  if (leaving_ && !outcome_.has_value()) outcome_ = absl::OkStatus();
}

absl::Status Worker::RunEpoch(uint64_t epoch, GroupExchange* group) {
  const auto layers = loaded_->model->MakeLayers(group->exchange());
  if (!layers.ok()) return layers.status();
  const engine::EpochRank rank{.epoch = epoch,
                               .rank = loaded_->slot,
                               .num_ranks = loaded_->shape.num_ranks,
                               .replicated = loaded_->replicated(),
                               .layers = layers->get(),
                               .control = group->control(),
                               .owner = loaded_->owner.get(),
                               .stop = &epoch_over_,
                               .current_step = &current_step_};
  return loaded_->leader != nullptr ? engine::LeadEpoch(rank, loaded_->leader.get())
                                    : engine::FollowEpoch(rank);
}

// What an earlier epoch computed is kept only where its owner and its leader are still the same
// processes: a new leader gets every sequence again from the gateways.
void Worker::ForgetLostSequences(uint64_t epoch) {
  std::vector<int> lost_owners;
  bool leader_changed = last_active_members_.empty();
  for (size_t i = 0; i < last_active_members_.size(); ++i) {
    const membership::EpochMember& before = last_active_members_[i];
    const bool same = i < prepared_members_.size() && SameProcess(before, prepared_members_[i]);
    if (same) continue;
    if (before.slot == 0) leader_changed = true;
    if (loaded_->replicated() || before.slot < loaded_->shape.num_attention_ranks) {
      // Every replica computes all sequences, so they are recomputed when any replica is new.
      lost_owners.push_back(loaded_->replicated() ? 0 : before.slot);
    }
  }
  if (loaded_->owner != nullptr &&
      (leader_changed || (loaded_->replicated() && !lost_owners.empty()))) {
    loaded_->owner->DropAll();
  }
  if (loaded_->leader != nullptr) loaded_->leader->OnEpochChanged(epoch, lost_owners);
  last_active_members_ = prepared_members_;
}

absl::StatusOr<std::unique_ptr<engine::Leader>> Worker::MakeLeader(const Loaded& loaded,
                                                                   int max_context) {
  const coordinator::v1::EngineLimits& limits = loaded.spec.limits();
  const model::ModelConfig& config = loaded.checkpoint->config();
  engine::LeaderOptions options;
  options.limits.num_owners = loaded.replicated() ? 1 : loaded.shape.num_attention_ranks;
  options.limits.max_sequences = static_cast<int>(limits.max_sequences());
  options.limits.max_step_tokens = loaded.shape.max_rows;
  options.limits.kv_blocks_per_owner = loaded.kv_blocks->num_blocks();
  options.limits.kv_block_tokens = kernels::kKvBlockTokens;
  options.max_queue = static_cast<int>(limits.max_queue());
  options.max_context = max_context;
  options.vocab_size = config.vocab_size;
  options.end_token_ids = config.eos_token_ids;
  return engine::Leader::Create(std::move(options), /*epoch=*/0, service_->sink());
}

absl::StatusOr<std::shared_ptr<GroupExchange>> Worker::MakeExchange(
    uint64_t epoch, const std::string& bootstrap) const {
  EpochRequest request{.epoch = epoch, .bootstrap = bootstrap, .addresses = {}};
  for (const membership::EpochMember& member : prepared_members_) {
    request.addresses.push_back(member.exchange_address);
  }
  return loaded_->exchanges->Make(request);
}

}  // namespace moe::worker
