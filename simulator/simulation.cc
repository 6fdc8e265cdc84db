#include "simulator/simulation.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/placement.h"
#include "gateway/journal/journal.h"
#include "simulator/clients.h"
#include "simulator/engine.h"
#include "simulator/event_queue.h"
#include "simulator/recovery_log.h"
#include "simulator/statistics.h"

namespace moe::simulator {
namespace {

using coordinator::v1::GroupState;
using engine::v1::EngineMessage;
using engine::v1::GatewayMessage;

// As in a cluster: gateway/journal/engine_client.h, worker/service/engine_service.h.
constexpr absl::Duration kJournalTick = absl::Milliseconds(100);
constexpr absl::Duration kStatsInterval = absl::Seconds(1);
constexpr absl::Duration kLeaderSilence = absl::Seconds(15);
constexpr absl::Duration kConnectAgain = absl::Milliseconds(100);
// What does not come up, or end, in this time never will.
constexpr absl::Duration kMaxStartup = absl::Hours(2);
constexpr absl::Duration kMaxDrain = absl::Hours(2);

// One group: who its workers are, what they compute, and what the gateway knows of it.
struct GroupRun {
  std::string name;
  std::unique_ptr<Membership> membership;
  std::unique_ptr<Engine> engine;
  uint64_t step = 0;  // number of the last one that was begun
  GroupState published;
  bool connected = false;   // the gateway, with the leader
  uint64_t connection = 0;  // number of the last one
};

class Run {
 public:
  Run(const Config& config, const std::function<void(const Progress&)>& on_progress)
      : config_(config), on_progress_(on_progress), recovery_log_(config.layout.data) {}

  absl::Status SetUp();
  absl::StatusOr<Result> Execute();

 private:
  // The engine thread's calls of one group.
  class Sink : public engine::EventSink {
   public:
    Sink(Run* run, int group_idx) : run_(run), group_idx_(group_idx) {}
    void OnEvents(uint64_t client, engine::v1::StepEvents events) override {
      run_->OnTokens(group_idx_, client, std::move(events));
    }

   private:
    Run* const run_;
    const int group_idx_;
  };

  absl::Status StartUp();
  absl::Status Handle(const Event& event);
  void HandleMembership(const Event& event);
  void OnActive(int group_idx);
  // Tells the gateway when something changed that it acts on.
  void NoticeChange(int group_idx);
  void OnArrival(size_t request_idx);
  void OnFailure(const Failure& failure);
  void OnStats(int group_idx);
  void OnTokens(int group_idx, uint64_t client, engine::v1::StepEvents events);
  void Connect(int group_idx);
  void Disconnect(GroupRun* group);
  void PublishGroups();
  // Carries the gateway's messages to the leaders, and begins steps where there is work.
  void Settle();
  void Deliver(GroupRun* group, GatewayMessage message);
  void BeginStep(int group_idx);
  bool in_window() const { return clients_ != nullptr && queue_.now() < start_ + config_.duration; }
  double Seconds(absl::Time time) const { return absl::ToDoubleSeconds(time - start_); }
  GroupRun& group(int idx) { return *groups_[static_cast<size_t>(idx)]; }
  // Whether a group is on its way to another epoch after a failure.
  bool any_recovers() const;
  void Finish();

  const Config& config_;
  const std::function<void(const Progress&)>& on_progress_;
  EventQueue queue_;
  EngineOptions engine_options_;
  std::optional<RouterModel> router_;
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::vector<std::unique_ptr<GroupRun>> groups_;
  std::shared_ptr<gateway::Journal> journal_;
  std::vector<GatewayMessage> messages_;
  bool publication_due_ = false;

  absl::Time start_;                  // of the window
  std::unique_ptr<Clients> clients_;  // null before the window
  RecoveryLog recovery_log_;
  std::vector<double> running_;
  std::vector<double> waiting_;
  std::vector<double> kv_usage_;
  Result result_;
};

absl::Status Run::SetUp() {
  const planner::Layout& layout = config_.layout;
  const planner::ModelShape& model = config_.scenario.model;
  if (layout.pipeline > 1 || layout.copies > 1 || layout.spares > 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        LayoutName(layout),
        ": pipeline stages, copies of experts and spare ranks can't be simulated: the scheduler "
        "runs one step at a time, and the epochs know no spares yet"));
  }
  auto leader = MakeLeaderOptions(config_.scenario, layout, config_.limits);
  if (!leader.ok()) return leader.status();
  if (auto works = engine::Leader::Create(*leader, 0, nullptr); !works.ok()) return works.status();
  if (config_.step_times.has_value()) {
    if (absl::Status times = CheckStepTimes(*config_.step_times); !times.ok()) return times;
  }
  engine_options_ = {.scenario = config_.scenario,
                     .layout = layout,
                     .leader = *std::move(leader),
                     .step_times = config_.step_times};
  result_.leader = engine_options_.leader;

  auto placement = coordinator::PlaceInBlocks(model.num_experts, layout.expert);
  if (!placement.ok()) return placement.status();
  auto router = RouterModel::Create(config_.router,
                                    {.num_layers = model.num_moe_layers(),
                                     .num_experts = model.num_experts,
                                     .top_k = model.top_k},
                                    *placement, config_.seed);
  if (!router.ok()) return router.status();
  router_ = *std::move(router);
  for (const Failure& failure : config_.failures) {
    auto ranks = RanksOfFailure(failure, layout, config_.scenario.network);
    if (!ranks.ok()) return ranks.status();
    if (failure.at >= config_.duration) {
      return absl::InvalidArgumentError(
          absl::StrCat(DescribeFailure(failure), " at ", absl::FormatDuration(failure.at),
                       ", when requests come for ", absl::FormatDuration(config_.duration),
                       " only: let it fail earlier, or the run be longer"));
    }
  }

  gateway::JournalOptions journal;
  journal.single_group = false;
  journal.model_digest = kModelDigest;
  journal.now = [this] { return queue_.now(); };
  journal_ = std::make_shared<gateway::Journal>(std::move(journal));

  const planner::MemoryUse memory =
      planner::MemoryOf(model, layout, config_.scenario.assumptions, 0, 1);
  for (int i = 0; i < layout.data; ++i) {
    GroupRun& added = *groups_.emplace_back(std::make_unique<GroupRun>());
    added.name = absl::StrCat("simulated/", i);
    MembershipOptions options{.group_idx = i,
                              .times = config_.times,
                              .attention_rank_bytes = memory.weight_bytes(),
                              .expert_rank_bytes = memory.expert_bytes};
    options.group.name = added.name;
    options.group.placement = *placement;
    options.group.num_layers = model.num_moe_layers();
    options.group.num_attention_ranks = layout.attention_ranks;
    options.group.replicated_attention = layout.replicated_attention;
    // As the operator has them for pods (controller/operator/group_options.cc).
    options.group.retry_unknown_workers = true;
    options.group.hello_deadline = absl::Minutes(3);
    added.membership = std::make_unique<Membership>(std::move(options), &queue_);
    sinks_.push_back(std::make_unique<Sink>(this, i));
    added.engine = std::make_unique<Engine>(&engine_options_, &*router_, sinks_.back().get());
    queue_.PushAfter(kStatsInterval, {.kind = EventKind::kStats, .group = i});
  }
  queue_.PushAfter(kJournalTick, {.kind = EventKind::kJournalTick});
  return absl::OkStatus();
}

absl::Status Run::StartUp() {
  const absl::Time begin = queue_.now();
  const auto all_serve = [this] {
    return std::all_of(groups_.begin(), groups_.end(), [](const auto& g) { return g->connected; });
  };
  while (!all_serve()) {
    if (absl::Status status = Handle(queue_.Pop()); !status.ok()) return status;
    for (const auto& g : groups_) {
      if (g->membership->failure().empty()) continue;
      return absl::UnavailableError(
          absl::StrCat("the groups never come up: ", g->membership->failure()));
    }
    if (queue_.now() - begin > kMaxStartup) {
      return absl::UnavailableError(
          absl::StrCat("the groups do not come up within ", absl::FormatDuration(kMaxStartup)));
    }
  }
  start_ = queue_.now();
  clients_ = std::make_unique<Clients>(&config_.requests, journal_.get(), start_, config_.duration);
  result_.startup_seconds = absl::ToDoubleSeconds(start_ - begin);
  return absl::OkStatus();
}

absl::StatusOr<Result> Run::Execute() {
  if (absl::Status status = StartUp(); !status.ok()) return status;
  if (!config_.requests.empty()) {
    queue_.Push(start_ + config_.requests[0].arrival, {.kind = EventKind::kArrival});
  }
  for (size_t i = 0; i < config_.failures.size(); ++i) {
    queue_.Push(start_ + config_.failures[i].at, {.kind = EventKind::kFailure, .number = i});
  }
  queue_.Push(start_ + config_.duration, {.kind = EventKind::kWindowEnd});
  const absl::Time end = start_ + config_.duration;
  while (in_window() || clients_->num_waiting() > 0 || any_recovers()) {
    if (absl::Status status = Handle(queue_.Pop()); !status.ok()) return status;
    if (queue_.now() > end + kMaxDrain) break;
  }
  Finish();
  return std::move(result_);
}

absl::Status Run::Handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kStepEnd: {
      GroupRun& g = group(event.group);
      if (event.number != g.step || !g.engine->step_runs()) break;
      if (!g.membership->complete()) {
        g.engine->DropStep();
        break;
      }
      if (absl::Status status = g.engine->EndStep(queue_.now()); !status.ok()) return status;
      if (clients_ != nullptr) clients_->TakeTokens(queue_.now());
      BeginStep(event.group);
      break;
    }
    case EventKind::kStats:
      OnStats(event.group);
      break;
    case EventKind::kGroupsPublished:
      PublishGroups();
      break;
    case EventKind::kLeaderAnswers:
      Connect(event.group);
      break;
    case EventKind::kLeaderGone:
      if (group(event.group).connection == event.number) Disconnect(&group(event.group));
      break;
    case EventKind::kJournalTick:
      journal_->Tick();
      queue_.PushAfter(kJournalTick, {.kind = EventKind::kJournalTick});
      Settle();
      break;
    case EventKind::kArrival:
      OnArrival(event.number);
      break;
    case EventKind::kFailure:
      OnFailure(config_.failures[event.number]);
      break;
    case EventKind::kWindowEnd:  // Execute looks at the time after each event
      break;
    default:
      HandleMembership(event);
      break;
  }
  return absl::OkStatus();
}

// ---- Groups ----

void Run::HandleMembership(const Event& event) {
  GroupRun& g = group(event.group);
  switch (g.membership->Handle(event)) {
    case Membership::Effect::kNone:
      break;
    case Membership::Effect::kLeaderLoaded:
      g.engine->StartLeader();
      break;
    case Membership::Effect::kActive:
      OnActive(event.group);
      BeginStep(event.group);
      break;
    case Membership::Effect::kLeaderEnded:
      Disconnect(&g);
      break;
  }
  NoticeChange(event.group);
}

void Run::OnActive(int group_idx) {
  const planner::Layout& layout = config_.layout;
  GroupRun& g = group(group_idx);
  std::vector<int> lost_owners;
  for (const int slot : g.membership->changed_slots()) {
    // Every replica computes all sequences.
    if (layout.replicated_attention) {
      lost_owners = {0};
    } else if (slot < layout.attention_ranks) {
      lost_owners.push_back(slot);
    }
  }
  const uint64_t epoch = g.membership->active_epoch();
  recovery_log_.OnKvLost(group_idx, g.engine->ChangeEpoch(epoch, lost_owners));
  recovery_log_.OnActive(group_idx, epoch, Seconds(queue_.now()));
}

void Run::NoticeChange(int group_idx) {
  GroupRun& g = group(group_idx);
  const coordinator::Group& real = g.membership->group();
  if (real.phase() == g.published.phase() && real.epoch() == g.published.epoch()) return;
  if (g.published.phase() == GroupState::ACTIVE) {
    recovery_log_.OnEpochEnded(group_idx, Seconds(queue_.now()));
  }
  // What gateways read of it.
  g.published.set_group(g.name);
  g.published.set_phase(real.phase());
  g.published.set_epoch(real.epoch());
  g.published.set_model_digest(kModelDigest);
  if (publication_due_) return;
  publication_due_ = true;
  queue_.PushAfter(config_.times.message, {.kind = EventKind::kGroupsPublished});
}

void Run::PublishGroups() {
  publication_due_ = false;
  coordinator::v1::GroupStates states;
  for (int i = 0; i < config_.layout.data; ++i) {
    const GroupRun& g = group(i);
    if (g.published.group().empty()) continue;  // nothing of it is known yet
    *states.add_groups() = g.published;
    if (g.published.phase() == GroupState::ACTIVE && !g.connected) {
      queue_.PushAfter(config_.times.message, {.kind = EventKind::kLeaderAnswers, .group = i});
    }
  }
  journal_->OnGroups(states);
  Settle();
}

void Run::Connect(int group_idx) {
  GroupRun& g = group(group_idx);
  if (g.connected || !g.engine->has_leader() || !g.membership->leader_speaks() ||
      g.membership->active_epoch() == 0) {
    return;  // the next state of the group will say
  }
  const engine::LeaderOptions& options = engine_options_.leader;
  engine::v1::Welcome welcome;
  welcome.set_epoch(g.membership->active_epoch());
  welcome.set_numerics_id(kNumericsId);
  welcome.set_model_digest(kModelDigest);
  welcome.set_vocab_size(static_cast<uint32_t>(options.vocab_size));
  welcome.set_max_context(static_cast<uint32_t>(options.max_context));
  welcome.set_kv_capacity_tokens(static_cast<uint64_t>(options.limits.kv_blocks_per_owner) *
                                 static_cast<uint64_t>(options.limits.kv_block_tokens));
  welcome.set_max_queue(static_cast<uint32_t>(options.max_queue));
  if (!journal_->OnWelcome(g.name, welcome).ok()) {
    queue_.PushAfter(kConnectAgain, {.kind = EventKind::kLeaderAnswers, .group = group_idx});
    return;
  }
  g.connected = true;
  ++g.connection;
  Settle();
}

void Run::Disconnect(GroupRun* g) {
  if (!g->connected) return;
  g->connected = false;
  g->engine->ClientGone(g->connection);
  journal_->OnDisconnect(g->name);
  Settle();
}

void Run::OnFailure(const Failure& failure) {
  const std::vector<int> ranks = *RanksOfFailure(failure, config_.layout, config_.scenario.network);
  const bool silently = failure.kind != Failure::Kind::kRank;
  for (size_t first = 0; first < ranks.size();) {
    const int group_idx = ranks[first] / config_.layout.expert;
    GroupRun& g = group(group_idx);
    Recovery recovery{.what = DescribeFailure(failure),
                      .group = group_idx,
                      .failed_at = Seconds(queue_.now()),
                      .epoch_before = g.membership->active_epoch()};
    const engine::v1::EngineStats stats = g.engine->stats();
    recovery.num_sequences = int64_t{stats.num_running()} + stats.num_waiting();
    for (; first < ranks.size() && ranks[first] / config_.layout.expert == group_idx; ++first) {
      const int slot = ranks[first] % config_.layout.expert;
      if (!g.membership->Fail(slot, silently)) continue;
      ++recovery.num_ranks;
      if (slot != 0) continue;
      recovery_log_.OnKvLost(group_idx, g.engine->LoseLeader());
      queue_.PushAfter(
          silently ? kLeaderSilence : config_.times.notice,
          {.kind = EventKind::kLeaderGone, .group = group_idx, .number = g.connection});
    }
    if (recovery.num_ranks == 0) continue;  // it had no process then
    if (g.engine->step_runs()) g.membership->AwaitSilentRank();
    recovery_log_.OnFailure(std::move(recovery));
  }
}

// ---- Requests ----

void Run::OnArrival(size_t request_idx) {
  if (request_idx + 1 < config_.requests.size()) {
    queue_.Push(start_ + config_.requests[request_idx + 1].arrival,
                {.kind = EventKind::kArrival, .number = request_idx + 1});
  }
  clients_->Arrive(request_idx, queue_.now());
  Settle();
}

void Run::Deliver(GroupRun* g, GatewayMessage message) {
  if (!g->engine->has_leader()) return;  // on its way to a process that has ended
  if (message.has_cancel()) {
    g->engine->Cancel(g->connection, message.cancel().request());
  } else if (message.has_submit()) {
    auto rejected =
        g->engine->Submit(g->connection, std::move(*message.mutable_submit()), queue_.now());
    if (!rejected.has_value()) return;
    EngineMessage answer;
    *answer.mutable_rejected() = *std::move(rejected);
    journal_->OnMessage(g->name, answer);
  }
}

void Run::Settle() {
  for (bool any = true; any;) {
    any = false;
    for (const auto& g : groups_) {
      if (!g->connected) continue;
      journal_->TakeOutgoing(g->name, absl::ZeroDuration(), &messages_);
      any = any || !messages_.empty();
      for (GatewayMessage& message : messages_) Deliver(g.get(), std::move(message));
    }
  }
  if (clients_ != nullptr) clients_->TakeTokens(queue_.now());
  for (int i = 0; i < config_.layout.data; ++i) BeginStep(i);
}

void Run::BeginStep(int group_idx) {
  GroupRun& g = group(group_idx);
  if (!g.engine->has_leader() || g.engine->step_runs() || g.membership->active_epoch() == 0 ||
      !g.engine->has_work()) {
    return;
  }
  if (!g.membership->complete()) {
    g.membership->AwaitSilentRank();
    return;
  }
  const std::optional<absl::Duration> time = g.engine->BeginStep(queue_.now());
  if (!time.has_value()) return;
  queue_.PushAfter(*time, {.kind = EventKind::kStepEnd, .group = group_idx, .number = ++g.step});
}

void Run::OnTokens(int group_idx, uint64_t client, engine::v1::StepEvents events) {
  GroupRun& g = group(group_idx);
  recovery_log_.OnTokens(group_idx, Seconds(queue_.now()));
  if (!g.connected || client != g.connection) return;
  EngineMessage message;
  *message.mutable_events() = std::move(events);
  journal_->OnMessage(g.name, message);
}

// ---- Figures ----

bool Run::any_recovers() const {
  for (int i = 0; i < config_.layout.data; ++i) {
    if (recovery_log_.recovers(i) &&
        groups_[static_cast<size_t>(i)]->membership->failure().empty()) {
      return true;
    }
  }
  return false;
}

void Run::OnStats(int group_idx) {
  queue_.PushAfter(kStatsInterval, {.kind = EventKind::kStats, .group = group_idx});
  GroupRun& g = group(group_idx);
  if (g.engine->has_leader() && g.membership->leader_speaks()) {
    const engine::v1::EngineStats stats = g.engine->stats();
    if (g.connected) {
      EngineMessage message;
      *message.mutable_stats() = stats;
      journal_->OnMessage(g.name, message);
    }
    if (in_window()) {
      running_.push_back(stats.num_running());
      waiting_.push_back(stats.num_waiting());
      kv_usage_.push_back(stats.kv_usage());
    }
  }
  if (group_idx != 0 || !on_progress_) return;
  if (clients_ == nullptr) return;
  on_progress_({.simulated = queue_.now() - start_,
                .num_arrived = clients_->num_arrived(),
                .num_ended = clients_->num_arrived() - clients_->num_waiting()});
}

void Run::Finish() {
  const absl::Time now = queue_.now();
  result_.window_seconds = absl::ToDoubleSeconds(config_.duration);
  result_.total_seconds = Seconds(now);
  result_.num_moved = journal_->view().num_moved;
  clients_->Report(now, &result_);
  result_.running = Summarize(std::move(running_));
  result_.waiting = Summarize(std::move(waiting_));
  result_.kv_usage = Summarize(std::move(kv_usage_));
  result_.group_seconds = result_.total_seconds * static_cast<double>(groups_.size());
  result_.recoveries = recovery_log_.recoveries();
  result_.down_seconds = recovery_log_.DownSeconds(result_.total_seconds);
  for (const auto& g : groups_) {
    result_.steps.Add(g->engine->totals());
    result_.num_preemptions += g->engine->num_preemptions();
    result_.num_computed_prompt_tokens += g->engine->num_prompt_tokens();
  }
}

}  // namespace

absl::StatusOr<Result> Simulate(const Config& config,
                                const std::function<void(const Progress&)>& on_progress) {
  Run run(config, on_progress);
  if (absl::Status status = run.SetUp(); !status.ok()) return status;
  return run.Execute();
}

}  // namespace moe::simulator
