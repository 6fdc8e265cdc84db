// The part of Group that takes an epoch from its claim to its end, and what a group shows.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"

namespace moe::coordinator {

void Group::TryStartEpoch() {
  if (over() || stage_ != Stage::kNone) return;
  for (const Slot& s : slots_) {
    if (!s.member.has_value() || s.member->session == 0 || !s.member->loaded.has_value()) return;
  }
  // A controller that takes over keeps the epoch that runs, if all of it runs.
  if (adoptable_epoch_ != 0 && std::all_of(slots_.begin(), slots_.end(), [this](const Slot& s) {
        return s.member->running_epoch == adoptable_epoch_;
      })) {
    epoch_ = std::exchange(adoptable_epoch_, 0);
    stage_ = Stage::kActive;
    stage_since_ = now_;
    was_active_ = true;
    Log(false, absl::StrCat("epoch ", epoch_, " runs on under term ", options_.term));
    Changed();
    return;
  }
  if (now_ < next_epoch_at_) return;
  adoptable_epoch_ = 0;
  epoch_ = ++last_epoch_;
  stage_ = Stage::kClaiming;
  actions_.emplace_back(ClaimEpoch{epoch_});
  Changed();
}

void Group::On(const EpochClaimed& event) {
  if (stage_ != Stage::kClaiming || event.epoch != epoch_) return;
  if (!event.status.ok()) {
    EndEpoch(absl::StrCat("the epoch could not be claimed: ", event.status.message()),
             /*process_ended=*/false);
    return;
  }
  stage_ = Stage::kPreparing;
  stage_since_ = now_;
  bootstrap_.clear();
  for (int i = 0; i < num_slots(); ++i) {
    slot(i).member->prepared = false;
    slot(i).member->joined = false;
    slot(i).member->running_epoch = 0;
  }
  for (int i = 0; i < num_slots(); ++i) SendPrepare(i);
  Changed();
}

void Group::OnPrepared(int slot_idx, const v1::Prepared& prepared) {
  if (stage_ != Stage::kPreparing || prepared.epoch() != epoch_) return;
  Member& member = *slot(slot_idx).member;
  if (member.prepared) return;
  member.prepared = true;
  if (slot_idx == 0) bootstrap_ = prepared.bootstrap();
  TryAdvance();
}

void Group::OnJoined(int slot_idx, const v1::Joined& joined) {
  if (stage_ != Stage::kJoining || joined.epoch() != epoch_) return;
  slot(slot_idx).member->joined = true;
  TryAdvance();
}

void Group::TryAdvance() {
  const auto all = [this](bool Member::* answered) {
    return std::all_of(slots_.begin(), slots_.end(),
                       [answered](const Slot& s) { return (*s.member).*answered; });
  };
  if (stage_ == Stage::kPreparing && all(&Member::prepared)) {
    stage_ = Stage::kJoining;
    stage_since_ = now_;
    for (int i = 0; i < num_slots(); ++i) SendJoin(i);
    Changed();
  } else if (stage_ == Stage::kJoining && all(&Member::joined)) {
    stage_ = Stage::kActive;
    stage_since_ = now_;
    was_active_ = true;
    num_failed_epochs_ = 0;
    bootstrap_.clear();
    for (int i = 0; i < num_slots(); ++i) SendActivate(i);
    Log(false, absl::StrCat("epoch ", epoch_, " is active"));
    Changed();
  }
}

void Group::OnEpochFailed(int slot_idx, const v1::EpochFailed& failed) {
  // An earlier controller's epoch that might have been kept is over, too.
  Member& member = *slot(slot_idx).member;
  if (member.running_epoch == failed.epoch()) member.running_epoch = 0;
  const bool current =
      stage_ != Stage::kNone && stage_ != Stage::kClaiming && failed.epoch() == epoch_;
  if (over() || failed.epoch() == 0 || (!current && failed.epoch() != ended_epoch_)) return;
  const std::string reason = absl::StrCat("worker ", slot_idx, " reports: ", failed.reason());
  if (current) {
    Log(true, absl::StrCat("epoch ", epoch_, " failed: ", reason));
    EndEpoch(reason, /*process_ended=*/false);
  }
  BlameSuspect(failed, reason);
  TryStartEpoch();
}

void Group::BlameSuspect(const v1::EpochFailed& failed, const std::string& reason) {
  const int suspect = failed.suspect_slot();
  if (suspect < 0 || suspect >= num_slots()) return;
  const Slot& s = slot(suspect);
  const bool silent = s.member.has_value() && now_ - s.member->heard_at > options_.fresh_heartbeat;
  // Ranks that wait for the culprit are themselves waited for, so only the first name counts;
  // later ones may still point out a process that is silent.
  if (blamed_epoch_ == failed.epoch() && !silent) return;
  blamed_epoch_ = failed.epoch();
  Blame(suspect, reason);
}

void Group::EndEpoch(const std::string& reason, bool process_ended) {
  if (stage_ == Stage::kNone) return;
  const bool claimed = stage_ != Stage::kClaiming;
  const bool was_active = stage_ == Stage::kActive;
  stage_ = Stage::kNone;
  bootstrap_.clear();
  if (claimed) {
    ended_epoch_ = epoch_;
    for (int i = 0; i < num_slots(); ++i) SendAbort(i, epoch_, reason);
  }
  Changed();
  if (process_ended) return;
  ++num_epoch_failures_;
  next_epoch_at_ =
      now_ + Backoff(options_.first_epoch_delay, options_.max_epoch_delay, num_epoch_failures_);
  if (was_active) return;
  Log(true, absl::StrCat("epoch ", epoch_, " was not formed: ", reason));
  if (++num_failed_epochs_ >= options_.max_failed_epochs) {
    Fail(absl::StrCat(num_failed_epochs_,
                      " epochs in a row could not be formed; the last time: ", reason));
  }
}

// ---- Messages ----

void Group::Send(int slot_idx, v1::ControllerMessage message) {
  const Slot& s = slot(slot_idx);
  if (!s.member.has_value() || s.member->session == 0) return;  // repeated at the next Hello
  actions_.emplace_back(SendMessage{s.member->session, std::move(message)});
}

void Group::SendAssign(int slot_idx) {
  v1::ControllerMessage message;
  message.mutable_assign()->set_term(options_.term);
  message.mutable_assign()->set_slot(static_cast<uint32_t>(slot_idx));
  *message.mutable_assign()->mutable_spec() = spec_;
  Send(slot_idx, std::move(message));
}

void Group::SendPrepare(int slot_idx) {
  v1::ControllerMessage message;
  message.mutable_prepare()->set_term(options_.term);
  message.mutable_prepare()->set_epoch(epoch_);
  for (int i = 0; i < num_slots(); ++i) {
    const v1::Hello& hello = slot(i).member->hello;
    v1::Member* member = message.mutable_prepare()->add_members();
    member->set_slot(static_cast<uint32_t>(i));
    member->set_worker_id(hello.worker_id());
    member->set_nonce(hello.nonce());
    member->set_exchange_address(hello.exchange_address());
  }
  Send(slot_idx, std::move(message));
}

void Group::SendJoin(int slot_idx) {
  v1::ControllerMessage message;
  message.mutable_join()->set_term(options_.term);
  message.mutable_join()->set_epoch(epoch_);
  message.mutable_join()->set_bootstrap(bootstrap_);
  Send(slot_idx, std::move(message));
}

void Group::SendActivate(int slot_idx) {
  v1::ControllerMessage message;
  message.mutable_activate()->set_term(options_.term);
  message.mutable_activate()->set_epoch(epoch_);
  Send(slot_idx, std::move(message));
}

void Group::SendAbort(int slot_idx, uint64_t epoch, const std::string& reason) {
  v1::ControllerMessage message;
  message.mutable_abort()->set_term(options_.term);
  message.mutable_abort()->set_epoch(epoch);
  message.mutable_abort()->set_reason(reason);
  Send(slot_idx, std::move(message));
}

// ---- What it shows ----

v1::GroupState::Phase Group::phase() const {
  if (failed_) return v1::GroupState::FAILED;
  if (stopping_) return v1::GroupState::STOPPING;
  if (stage_ == Stage::kActive) return v1::GroupState::ACTIVE;
  if (was_active_) return v1::GroupState::RECOVERING;
  bool loaded = true;
  for (const Slot& s : slots_) {
    if (!s.member.has_value()) return v1::GroupState::STARTING;
    loaded = loaded && s.member->loaded.has_value();
  }
  return loaded ? v1::GroupState::CONNECTING : v1::GroupState::LOADING;
}

v1::GroupState Group::State() const {
  v1::GroupState state;
  state.set_group(options_.name);
  state.set_phase(phase());
  state.set_draining(draining_);
  state.set_reason(reason_);
  state.set_term(options_.term);
  state.set_layout(absl::StrCat("EP", num_slots(), "_TP1_PP1_DP1"));
  state.set_num_layers(static_cast<uint32_t>(options_.num_layers));
  state.set_num_experts(static_cast<uint32_t>(options_.placement.num_experts()));
  state.mutable_expert_tokens()->Assign(load_.totals().begin(), load_.totals().end());
  state.set_numerics_id(numerics_id_);
  state.set_model_digest(ModelDigest());
  if (stage_ == Stage::kActive) {
    state.set_epoch(epoch_);
    state.set_leader_address(slot(0).member->hello.engine_address());
  }
  if (slot(0).member.has_value()) {
    state.set_num_running(slot(0).member->num_running);
    state.set_num_waiting(slot(0).member->num_waiting);
  }
  uint64_t kv_capacity_tokens = 0;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
  for (int i = 0; i < num_slots(); ++i) {
    const Slot& s = slot(i);
    v1::GroupState::Worker* worker = state.add_workers();
    worker->set_slot(static_cast<uint32_t>(i));
    worker->set_worker_id(s.worker_id);
    worker->set_num_failures(s.num_failures);
    worker->set_owns_sequences(options_.replicated_attention ? i == 0
                                                             : i < options_.num_attention_ranks);
    for (int expert : s.experts) worker->add_experts(static_cast<uint32_t>(expert));
    if (!s.member.has_value()) continue;
    const Member& member = *s.member;
    worker->set_pid(member.hello.pid());
    worker->set_host(member.hello.host());
    worker->set_metrics_address(member.hello.metrics_address());
    worker->set_busy_seconds(member.busy_seconds);
    bytes_done += member.bytes_done;
    bytes_total += member.bytes_total;
    if (!member.loaded.has_value()) continue;
    worker->set_loaded_bytes(member.loaded->bytes());
    worker->set_load_seconds(member.loaded->seconds());
    worker->set_resident_bytes(member.loaded->resident_bytes());
    kv_capacity_tokens += member.loaded->kv_capacity_tokens();
  }
  state.set_kv_capacity_tokens(kv_capacity_tokens);
  state.set_load_bytes_done(bytes_done);
  state.set_load_bytes_total(bytes_total);
  return state;
}

}  // namespace moe::coordinator
