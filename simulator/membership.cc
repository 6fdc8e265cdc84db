#include "simulator/membership.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace moe::simulator {
namespace {

// Both as in a cluster: controller/coordinator/group_loop.h and worker/membership/membership.h.
constexpr absl::Duration kTickInterval = absl::Milliseconds(100);
constexpr absl::Duration kHeartbeatInterval = absl::Seconds(1);

using coordinator::v1::ControllerMessage;
using coordinator::v1::WorkerMessage;

}  // namespace

Membership::Membership(MembershipOptions options, EventQueue* queue)
    : options_(std::move(options)), queue_(queue), group_(options_.group) {
  processes_.resize(static_cast<size_t>(options_.group.placement.num_slots));
  last_members_.resize(processes_.size());
  slot_of_session_.push_back(-1);
  Later(absl::ZeroDuration(), EventKind::kTick, 0, 0);
  Later(kHeartbeatInterval, EventKind::kHeartbeats, 0, 0);
}

void Membership::Later(absl::Duration delay, EventKind kind, int slot, uint64_t number) {
  queue_->PushAfter(delay,
                    {.kind = kind, .group = options_.group_idx, .slot = slot, .number = number});
}

std::string Membership::WorkerId(int slot) const {
  return absl::StrCat("group ", options_.group_idx, " rank ", slot, " process ",
                      processes_[static_cast<size_t>(slot)].number);
}

bool Membership::IsOfSpeakingProcess(const Event& event) const {
  return Speaks(event.slot) && processes_[static_cast<size_t>(event.slot)].number == event.number;
}

absl::Duration Membership::LoadTime(int slot) const {
  const int num_attention_ranks = options_.group.replicated_attention
                                      ? options_.group.placement.num_slots
                                      : options_.group.num_attention_ranks;
  const double bytes =
      slot < num_attention_ranks ? options_.attention_rank_bytes : options_.expert_rank_bytes;
  return absl::Seconds(bytes / options_.times.load_bytes_per_second);
}

// ---- Events ----

Membership::Effect Membership::Handle(const Event& event) {
  const auto slot = static_cast<size_t>(event.slot);
  switch (event.kind) {
    case EventKind::kTick:
      Step(coordinator::Tick{});
      Later(kTickInterval, EventKind::kTick, 0, 0);
      return Effect::kNone;
    case EventKind::kHeartbeats:
      for (int i = 0; i < static_cast<int>(processes_.size()); ++i) {
        const Process& process = processes_[static_cast<size_t>(i)];
        if (!Speaks(i) || process.session == 0) continue;
        WorkerMessage message;
        if (process.loaded) {
          message.mutable_heartbeat()->set_epoch(active_epoch_);
        } else {
          message.mutable_load_progress();
        }
        Say(i, std::move(message));
      }
      Later(kHeartbeatInterval, EventKind::kHeartbeats, 0, 0);
      return Effect::kNone;
    case EventKind::kHello:
      return OnHello(event);
    case EventKind::kLoaded: {
      if (!IsOfSpeakingProcess(event)) return Effect::kNone;
      processes_[slot].loaded = true;
      WorkerMessage message;
      message.mutable_loaded()->set_model_digest(kModelDigest);
      Say(event.slot, std::move(message));
      return event.slot == 0 ? Effect::kLeaderLoaded : Effect::kNone;
    }
    case EventKind::kClaimed:
      Step(coordinator::EpochClaimed{event.number, absl::OkStatus()});
      return Effect::kNone;
    case EventKind::kPrepared: {
      if (!Speaks(event.slot)) return Effect::kNone;
      WorkerMessage message;
      message.mutable_prepared()->set_epoch(event.number);
      if (event.slot == 0) message.mutable_prepared()->set_bootstrap("simulated");
      Say(event.slot, std::move(message));
      return Effect::kNone;
    }
    case EventKind::kJoined: {
      // A rank has joined when it is connected with all others.
      for (int i = 0; i < static_cast<int>(processes_.size()); ++i) {
        if (!Speaks(i)) return Effect::kNone;
      }
      WorkerMessage message;
      message.mutable_joined()->set_epoch(event.number);
      Say(event.slot, std::move(message));
      return Effect::kNone;
    }
    case EventKind::kActivated:
      return OnActivated(event.number);
    case EventKind::kSessionClosed: {
      Process& process = processes_[slot];
      if (process.number == event.number && process.session != 0) {
        Step(coordinator::SessionClosed{std::exchange(process.session, 0)});
      }
      return Effect::kNone;
    }
    case EventKind::kPeersNotice:
    case EventKind::kStepDeadline:
      ReportLostRank(event);
      return Effect::kNone;
    case EventKind::kExited:
      if (processes_[slot].number != event.number) return Effect::kNone;
      Step(coordinator::WorkerExited{event.slot, WorkerId(event.slot), "ended", ""});
      return event.slot == 0 ? Effect::kLeaderEnded : Effect::kNone;
    default:
      return Effect::kNone;
  }
}

Membership::Effect Membership::OnHello(const Event& event) {
  if (!IsOfSpeakingProcess(event)) return Effect::kNone;
  Process& process = processes_[static_cast<size_t>(event.slot)];
  process.session = slot_of_session_.size();
  slot_of_session_.push_back(event.slot);
  WorkerMessage message;
  coordinator::v1::Hello* hello = message.mutable_hello();
  hello->set_worker_id(WorkerId(event.slot));
  hello->set_nonce(process.number);
  hello->set_numerics_id(kNumericsId);
  hello->set_slot_hint(event.slot);
  hello->set_engine_address(WorkerId(event.slot));
  Say(event.slot, std::move(message));
  return Effect::kNone;
}

void Membership::ReportLostRank(const Event& event) {
  if (active_epoch_ == 0 || event.number != active_epoch_) return;
  if (event.kind == EventKind::kStepDeadline) deadline_runs_ = false;
  for (int i = 0; i < static_cast<int>(processes_.size()); ++i) {
    if (i == event.slot || !Speaks(i) || processes_[static_cast<size_t>(i)].session == 0) continue;
    WorkerMessage message;
    coordinator::v1::EpochFailed* failed = message.mutable_epoch_failed();
    failed->set_epoch(active_epoch_);
    failed->set_reason(absl::StrCat("rank ", event.slot, " is gone"));
    failed->set_suspect_slot(event.slot);
    Say(i, std::move(message));
    return;
  }
}

Membership::Effect Membership::OnActivated(uint64_t epoch) {
  if (!Speaks(0) || group_.epoch() != epoch) return Effect::kNone;
  active_epoch_ = epoch;
  deadline_runs_ = false;
  num_lost_ = 0;
  changed_slots_.clear();
  for (size_t i = 0; i < processes_.size(); ++i) {
    if (processes_[i].number != last_members_[i]) changed_slots_.push_back(static_cast<int>(i));
    last_members_[i] = processes_[i].number;
    if (!Speaks(static_cast<int>(i))) {
      ++num_lost_;
      lost_slot_ = static_cast<int>(i);
    }
  }
  return Effect::kActive;
}

bool Membership::Fail(int slot, bool silently) {
  if (!Speaks(slot)) return false;
  Process& process = processes_[static_cast<size_t>(slot)];
  if (active_epoch_ != 0) {
    ++num_lost_;
    lost_slot_ = slot;
  }
  if (silently) {
    process.silent = true;
    return true;
  }
  process.runs = false;
  Later(options_.times.notice, EventKind::kSessionClosed, slot, process.number);
  if (active_epoch_ != 0)
    Later(options_.times.notice, EventKind::kPeersNotice, slot, active_epoch_);
  Later(options_.times.exit_report, EventKind::kExited, slot, process.number);
  return true;
}

void Membership::AwaitSilentRank() {
  if (deadline_runs_ || active_epoch_ == 0 || num_lost_ == 0) return;
  deadline_runs_ = true;
  Later(options_.times.step_deadline, EventKind::kStepDeadline, lost_slot_, active_epoch_);
}

// ---- The controller ----

void Membership::Say(int slot, WorkerMessage message) {
  Step(coordinator::SessionMessage{processes_[static_cast<size_t>(slot)].session,
                                   std::move(message)});
}

void Membership::Step(coordinator::Event event) {
  pending_.push_back(std::move(event));
  for (; !pending_.empty(); pending_.pop_front()) {
    for (const coordinator::Action& action : group_.Step(pending_.front(), queue_->now())) {
      std::visit([this](const auto& a) { Do(a); }, action);
    }
  }
}

void Membership::Do(const coordinator::SendMessage& action) {
  const int slot = slot_of_session_[action.session];
  const absl::Duration message = options_.times.message;
  const ControllerMessage& sent = action.message;
  // The process need not hear that its epoch is over to compute no more: its step can't end.
  if (sent.has_abort() && sent.abort().epoch() == active_epoch_) active_epoch_ = 0;
  if (!Speaks(slot)) return;
  switch (sent.message_case()) {
    case ControllerMessage::kAssign:
      Later(message + LoadTime(slot), EventKind::kLoaded, slot,
            processes_[static_cast<size_t>(slot)].number);
      break;
    case ControllerMessage::kPrepare:
      Later(2 * message, EventKind::kPrepared, slot, sent.prepare().epoch());
      break;
    case ControllerMessage::kJoin:
      Later(2 * message + options_.times.connect, EventKind::kJoined, slot, sent.join().epoch());
      break;
    case ControllerMessage::kActivate:
      if (slot == 0) Later(message, EventKind::kActivated, slot, sent.activate().epoch());
      break;
    case ControllerMessage::kDismiss:
      Fail(slot, /*silently=*/false);
      break;
    default:
      break;
  }
}

void Membership::Do(const coordinator::CloseSession& action) {
  Process& process = processes_[static_cast<size_t>(slot_of_session_[action.session])];
  if (process.session == action.session) process.session = 0;
}

void Membership::Do(const coordinator::StartWorker& action) {
  Process& process = processes_[static_cast<size_t>(action.slot)];
  process = {.number = process.number + 1, .runs = true};
  pending_.emplace_back(coordinator::WorkerStarted{action.slot, WorkerId(action.slot)});
  Later(options_.times.start, EventKind::kHello, action.slot, process.number);
}

void Membership::Do(const coordinator::KillWorker& action) {
  Process& process = processes_[static_cast<size_t>(action.slot)];
  if (!process.runs) return;  // its end is on the way
  process.runs = false;
  Later(options_.times.exit_report, EventKind::kExited, action.slot, process.number);
}

void Membership::Do(const coordinator::ClaimEpoch& action) {
  Later(2 * options_.times.message, EventKind::kClaimed, 0, action.epoch);
}

void Membership::Do(const coordinator::GiveUp& action) { failure_ = action.reason; }

void Membership::Do(const coordinator::LogLine& /*action*/) {}

}  // namespace moe::simulator
