#include "controller/coordinator/group.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moe::coordinator {
namespace {

v1::GroupSpec MakeSpec(const GroupOptions& options) {
  v1::GroupSpec spec;
  spec.set_num_slots(static_cast<uint32_t>(options.placement.num_slots));
  spec.set_num_attention_ranks(static_cast<uint32_t>(options.num_attention_ranks));
  spec.set_replicated_attention(options.replicated_attention);
  for (int expert = 0; expert < options.placement.num_experts(); ++expert) {
    v1::ExpertPlacement* entry = spec.add_placement();
    entry->set_expert(static_cast<uint32_t>(expert));
    for (int slot : options.placement.slots_of_expert[static_cast<size_t>(expert)]) {
      entry->add_slots(static_cast<uint32_t>(slot));
    }
  }
  *spec.mutable_limits() = options.limits;
  spec.set_exchange(options.exchange);
  return spec;
}

// Above the worker's own deadline for joining (worker/daemon/nccl_group_exchange.h), whose words
// name the rank that is missing. Not measured on GPUs.
constexpr absl::Duration kNcclStageDeadline = absl::Seconds(70);

}  // namespace

void ExchangeBetweenGpus(GroupOptions* options) {
  if (options->placement.num_slots == 1) return;
  options->exchange = v1::EXCHANGE_NCCL;
  options->stage_deadline = kNcclStageDeadline;
}

Group::Group(GroupOptions options)
    : options_(std::move(options)),
      spec_(MakeSpec(options_)),
      load_(options_.placement, options_.num_layers),
      last_epoch_(options_.last_epoch),
      adoptable_epoch_(options_.last_epoch) {
  slots_.resize(static_cast<size_t>(options_.placement.num_slots));
  for (int i = 0; i < num_slots(); ++i) slot(i).experts = ExpertsOfSlot(options_.placement, i);
}

std::vector<Action> Group::Step(const Event& event, absl::Time now) {
  if (last_step_ == absl::InfinitePast()) {
    now_ = now;
  } else if (now > last_step_) {
    now_ += std::min(now - last_step_, options_.max_time_step);
  }
  last_step_ = std::max(last_step_, now);
  actions_.clear();
  std::visit([this](const auto& e) { On(e); }, event);
  return std::exchange(actions_, {});
}

// ---- Processes ----

void Group::On(const WorkerStarted& event) {
  Slot& s = slot(event.slot);
  if (s.worker_id == event.worker_id) return;
  if (!s.worker_id.empty()) {
    s.starting = true;  // the new one is here already
    On(WorkerExited{event.slot, s.worker_id, "was replaced by another process", ""});
  }
  s.starting = false;
  s.worker_id = event.worker_id;
  s.started_at = now_;
  s.dying = false;
  s.kill_reason.clear();
  s.refusal.clear();
  Changed();
}

void Group::On(const WorkerStartFailed& event) {
  Slot& s = slot(event.slot);
  if (!s.starting) return;
  s.starting = false;
  SlotFailed(event.slot, absl::StrCat("could not be started: ", event.reason), "");
}

void Group::On(const WorkerExited& event) {
  Slot& s = slot(event.slot);
  if (s.worker_id.empty() || s.worker_id != event.worker_id) return;
  std::string description = event.description;
  if (!s.kill_reason.empty()) absl::StrAppend(&description, " because ", s.kill_reason);
  if (!s.refusal.empty()) absl::StrAppend(&description, " after it was refused: ", s.refusal);
  // A pod that is being deleted is over for the group while its process lives, which would say
  // Hello again and again.
  if (options_.retry_unknown_workers && s.member.has_value() && s.member->session != 0) {
    Dismiss(s.member->session, description);
  }
  DropMember(event.slot);
  s.worker_id.clear();
  s.dying = false;
  s.kill_reason.clear();
  s.refusal.clear();
  s.blamed_at = absl::InfinitePast();
  SlotFailed(event.slot, description, event.last_lines);
}

void Group::SlotFailed(int slot_idx, const std::string& description,
                       const std::string& last_lines) {
  Changed();
  if (over()) return;
  Slot& s = slot(slot_idx);
  const std::string what = absl::StrCat("worker ", slot_idx, " ", description);
  Log(true, what);
  EndEpoch(what, /*process_ended=*/true);
  // Whatever kept epochs from becoming active may have ended with this process.
  num_failed_epochs_ = 0;
  ++s.num_failures;
  s.failures.push_back(now_);
  while (now_ - s.failures.front() > options_.failure_window) s.failures.pop_front();
  const int recent = static_cast<int>(s.failures.size());
  if (recent >= options_.max_slot_failures) {
    std::string reason = absl::StrCat("worker ", slot_idx, " failed ", recent, " times within ",
                                      absl::FormatDuration(options_.failure_window),
                                      "; the last time it ", description);
    if (!last_lines.empty()) absl::StrAppend(&reason, "\nits last lines of log:\n", last_lines);
    Fail(reason);
    return;
  }
  s.start_at = now_ + Backoff(options_.first_restart_delay, options_.max_restart_delay, recent);
  StartDueWorkers();
}

void Group::StartDueWorkers() {
  if (over()) return;
  for (int i = 0; i < num_slots(); ++i) {
    Slot& s = slot(i);
    if (!s.worker_id.empty() || s.starting || now_ < s.start_at) continue;
    s.starting = true;
    actions_.emplace_back(StartWorker{i});
  }
}

void Group::Kill(int slot_idx, const std::string& reason) {
  Slot& s = slot(slot_idx);
  if (s.worker_id.empty() || s.dying) return;
  s.dying = true;
  s.kill_reason = reason;
  Log(true, absl::StrCat("killing worker ", slot_idx, ": ", reason));
  actions_.emplace_back(KillWorker{slot_idx, s.worker_id, reason});
  DropMember(slot_idx);
  EndEpoch(absl::StrCat("worker ", slot_idx, " was killed because ", reason),
           /*process_ended=*/true);
  Changed();
}

void Group::Blame(int slot_idx, const std::string& reason) {
  Slot& s = slot(slot_idx);
  if (over() || s.worker_id.empty() || s.dying) return;
  if (!s.member.has_value()) return;  // a new process, not the one that was meant
  if (now_ - s.member->heard_at > options_.fresh_heartbeat) {
    Kill(slot_idx, absl::StrCat("it was silent and others reported: ", reason));
  } else if (now_ - s.blamed_at <= options_.suspect_window) {
    Kill(slot_idx, absl::StrCat("it was blamed for two failed epochs, the last time: ", reason));
  } else {
    s.blamed_at = now_;
  }
}

// ---- Deadlines ----

void Group::On(const Tick&) {
  if (over()) return;
  for (int i = 0; i < num_slots(); ++i) CheckSlot(i);
  CheckStageDeadline();
  if (stage_ == Stage::kActive && now_ - stage_since_ >= options_.stable_epoch) {
    num_epoch_failures_ = 0;
  }
  StartDueWorkers();
  TryStartEpoch();
}

void Group::CheckSlot(int slot_idx) {
  const Slot& s = slot(slot_idx);
  if (s.worker_id.empty() || s.dying) return;
  if (!s.member.has_value()) {
    if (now_ - s.started_at > options_.hello_deadline) {
      Kill(slot_idx, absl::StrCat("it did not connect within ",
                                  absl::FormatDuration(options_.hello_deadline)));
    }
    return;
  }
  const Member& member = *s.member;
  const absl::Duration silence = now_ - member.heard_at;
  if (member.session == 0) {
    // A running epoch goes on without its sessions.
    if (stage_ != Stage::kActive && silence > options_.reconnect_deadline) {
      Kill(slot_idx, absl::StrCat("it lost its session and did not connect again within ",
                                  absl::FormatDuration(options_.reconnect_deadline)));
    }
    return;
  }
  if (silence > options_.heartbeat_deadline) {
    Kill(slot_idx, absl::StrCat("it sent no heartbeat for ",
                                absl::FormatDuration(options_.heartbeat_deadline)));
    return;
  }
  if (!member.loaded.has_value() && now_ - member.progress_at > options_.load_deadline) {
    Kill(slot_idx, absl::StrCat("loading made no progress for ",
                                absl::FormatDuration(options_.load_deadline)));
  }
}

void Group::CheckStageDeadline() {
  if (stage_ != Stage::kPreparing && stage_ != Stage::kJoining) return;
  if (now_ - stage_since_ <= options_.stage_deadline) return;
  const bool preparing = stage_ == Stage::kPreparing;
  std::vector<int> late;
  for (int i = 0; i < num_slots(); ++i) {
    const Member& member = *slot(i).member;
    if (preparing ? !member.prepared : !member.joined) late.push_back(i);
  }
  const std::string reason = absl::StrCat("no ", preparing ? "Prepared" : "Joined", " within ",
                                          absl::FormatDuration(options_.stage_deadline),
                                          " from worker ", absl::StrJoin(late, ", "));
  blamed_epoch_ = epoch_;
  EndEpoch(reason, /*process_ended=*/false);
  // One rank that is stuck can keep all others from joining, so a majority is not blamed.
  if (preparing || 2 * static_cast<int>(late.size()) <= num_slots()) {
    for (int i : late) Blame(i, reason);
  }
}

// ---- The end ----

void Group::On(const DrainRequested&) {
  if (draining_) return;
  draining_ = true;
  Changed();
}

void Group::On(const StopRequested&) {
  if (over()) return;
  EndEpoch("the group is stopping", /*process_ended=*/false);
  stopping_ = true;
  for (const auto& [session, slot_idx] : slot_of_session_) {
    Dismiss(session, "the group is stopping");
  }
  Changed();
}

void Group::Fail(const std::string& reason) {
  if (over()) return;
  EndEpoch("the group has failed", /*process_ended=*/true);
  failed_ = true;
  reason_ = reason;
  actions_.emplace_back(GiveUp{reason});
  Changed();
}

absl::Duration Group::Backoff(absl::Duration first, absl::Duration max, int num_failures) const {
  if (num_failures <= 1) return absl::ZeroDuration();
  absl::Duration delay = first;
  for (int i = 2; i < num_failures && delay < max; ++i) delay *= 2;
  return std::min(delay, max);
}

void Group::Log(bool warning, std::string text) {
  actions_.emplace_back(LogLine{warning, std::move(text)});
}

}  // namespace moe::coordinator
