#include "simulator/engine.h"

#include <algorithm>
#include <utility>

namespace moe::simulator {
namespace {

// No model computes here: every token is the same.
constexpr int32_t kToken = 0;

}  // namespace

void StepTotals::Add(const StepCost& step) {
  const planner::ForwardTime& time = step.time;
  ++num_steps;
  num_prefill_steps += step.rows.prefill ? 1 : 0;
  rows += step.rows.rows;
  traffic += step.traffic_max_over_mean;
  seconds += step.seconds();
  measured_seconds += step.measured_seconds.value_or(0);
  busy_seconds += time.busy_seconds;
  attention_seconds += time.attention_seconds;
  kv_seconds += time.kv_seconds;
  dense_seconds += time.router_seconds + time.dense_seconds;
  expert_seconds += time.expert_seconds;
  head_seconds += time.head_seconds;
  exchange_seconds += time.exchange_seconds();
  tensor_seconds += time.tensor_seconds;
  host_seconds += time.host_seconds;
  hidden_seconds += time.hidden_seconds;
  for (size_t i = 0; i < by_limit.size(); ++i) by_limit[i] += time.by_limit[i];
}

void StepTotals::Add(const StepTotals& other) {
  num_steps += other.num_steps;
  num_prefill_steps += other.num_prefill_steps;
  rows += other.rows;
  traffic += other.traffic;
  seconds += other.seconds;
  busy_seconds += other.busy_seconds;
  attention_seconds += other.attention_seconds;
  kv_seconds += other.kv_seconds;
  dense_seconds += other.dense_seconds;
  expert_seconds += other.expert_seconds;
  head_seconds += other.head_seconds;
  exchange_seconds += other.exchange_seconds;
  tensor_seconds += other.tensor_seconds;
  host_seconds += other.host_seconds;
  hidden_seconds += other.hidden_seconds;
  measured_seconds += other.measured_seconds;
  for (size_t i = 0; i < by_limit.size(); ++i) by_limit[i] += other.by_limit[i];
}

Engine::Engine(const EngineOptions* options, RouterModel* router, engine::EventSink* sink)
    : options_(options),
      router_(router),
      sink_(sink),
      counter_(options->leader.limits.num_owners) {}

void Engine::StartLeader() {
  auto leader = engine::Leader::Create(options_->leader, /*epoch=*/0, sink_);
  leader_ = *std::move(leader);
}

int64_t Engine::LoseLeader() {
  if (leader_ == nullptr) return 0;
  earlier_preemptions_ += leader_->stats().num_preemptions();
  earlier_prompt_tokens_ += leader_->stats().num_prompt_tokens();
  leader_ = nullptr;
  plan_.reset();
  int64_t lost = 0;
  for (const auto& [id, stay] : stays_) lost += stay.num_computed;
  stays_.clear();
  return lost;
}

int64_t Engine::LoseStays(absl::Span<const int> owners) {
  int64_t lost = 0;
  for (auto it = stays_.begin(); it != stays_.end();) {
    const bool is_lost = std::find(owners.begin(), owners.end(), it->second.owner) != owners.end();
    lost += is_lost ? it->second.num_computed : 0;
    if (is_lost) {
      stays_.erase(it++);
    } else {
      ++it;
    }
  }
  return lost;
}

int64_t Engine::ChangeEpoch(uint64_t epoch, absl::Span<const int> lost_owners) {
  plan_.reset();
  leader_->OnEpochChanged(epoch, lost_owners);
  return lost_owners.empty() ? 0 : LoseStays(lost_owners);
}

std::optional<engine::v1::Rejected> Engine::Submit(uint64_t client, engine::v1::Submit submit,
                                                   absl::Time now) {
  return leader_->Submit(client, std::move(submit), now);
}

void Engine::Cancel(uint64_t client, uint64_t request) { leader_->Cancel(client, request); }

void Engine::ClientGone(uint64_t client) {
  if (leader_ != nullptr) leader_->ClientGone(client);
}

engine::v1::EngineStats Engine::stats() const {
  return leader_ == nullptr ? engine::v1::EngineStats() : leader_->stats();
}

std::optional<absl::Duration> Engine::BeginStep(absl::Time now) {
  if (!leader_->HasWork()) return std::nullopt;
  plan_ = leader_->NextPlan(now);
  if (!plan_.has_value()) return std::nullopt;
  cost_ = {.rows = counter_.Count(*plan_)};
  cost_.traffic_max_over_mean = router_->DrawTraffic(static_cast<int>(cost_.rows.rows));
  if (options_->step_times.has_value()) {
    cost_.measured_seconds = SecondsOf(*options_->step_times, cost_.rows, counter_.decode_rows());
  } else {
    const planner::Scenario& scenario = options_->scenario;
    cost_.rows.traffic_max_over_mean = cost_.traffic_max_over_mean;
    cost_.time = planner::TimeOfForward(scenario.model, scenario.device, scenario.network,
                                        scenario.assumptions, options_->layout, cost_.rows);
  }
  return absl::Seconds(cost_.seconds());
}

// What an owner does with a plan (worker/engine/owner.cc), without the rows.
void Engine::FollowPlan() {
  for (const uint64_t id : plan_->released()) stays_.erase(id);
  for (const engine::v1::NewSequence& added : plan_->new_sequences()) {
    stays_[added.sequence_id()] = {.owner = static_cast<int>(added.owner()),
                                   .num_left = static_cast<int>(added.sampling().max_tokens()) -
                                               added.generated_tokens_size()};
  }
  result_.Clear();
  result_.set_epoch(plan_->epoch());
  result_.set_step(plan_->step());
  for (const engine::v1::SequenceSlice& slice : plan_->slices()) {
    const auto stay = stays_.find(slice.sequence_id());
    if (stay != stays_.end()) {
      stay->second.num_computed = static_cast<int>(slice.start() + slice.count());
      stay->second.num_left -= slice.sample() ? 1 : 0;
      // Nobody needs its KV cache any more.
      if (stay->second.num_left <= 0) stays_.erase(stay);
    }
    if (!slice.sample()) continue;
    engine::v1::SequenceResult* drawn = result_.add_results();
    drawn->set_sequence_id(slice.sequence_id());
    drawn->set_sampled(true);
    drawn->set_token(kToken);
  }
}

absl::Status Engine::EndStep(absl::Time now) {
  FollowPlan();
  totals_.Add(cost_);
  const engine::v1::StepPlan plan = *std::move(plan_);
  plan_.reset();
  return leader_->Commit(plan, {&result_, 1}, now);
}

uint64_t Engine::num_preemptions() const {
  return earlier_preemptions_ + stats().num_preemptions();
}

uint64_t Engine::num_prompt_tokens() const {
  return earlier_prompt_tokens_ + stats().num_prompt_tokens();
}

}  // namespace moe::simulator
