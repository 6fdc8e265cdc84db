// The part of Group that hears its workers: who may be a member, and what members say before and
// beside the epochs.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/group.h"

namespace moe::coordinator {
namespace {

constexpr size_t kMaxShownWarnings = 1000;
constexpr char kUnknownWorker[] = "no process with this worker id was started";
constexpr char kNoRankYet[] = "it has no rank yet: a spare worker, or one that was not seen yet";

std::string Identity(const v1::Hello& hello) {
  return absl::StrCat(hello.worker_id(), "/", hello.nonce());
}

}  // namespace

void Group::On(const SessionMessage& event) {
  using Message = v1::WorkerMessage;
  const Message& message = event.message;
  if (message.message_case() == Message::kHello) {
    OnHello(event.session, message.hello());
    return;
  }
  const auto found = slot_of_session_.find(event.session);
  if (found == slot_of_session_.end()) return;  // refused, replaced, or of a process that ended
  const int slot_idx = found->second;
  slot(slot_idx).member->heard_at = now_;
  switch (message.message_case()) {
    case Message::kLoadProgress: {
      Member& member = *slot(slot_idx).member;
      if (member.loaded.has_value()) break;
      member.progress_at = now_;
      member.bytes_done = message.load_progress().bytes_done();
      member.bytes_total = message.load_progress().bytes_total();
      break;
    }
    case Message::kLoaded:
      OnLoaded(slot_idx, message.loaded());
      break;
    case Message::kPrepared:
      OnPrepared(slot_idx, message.prepared());
      break;
    case Message::kJoined:
      OnJoined(slot_idx, message.joined());
      break;
    case Message::kEpochFailed:
      OnEpochFailed(slot_idx, message.epoch_failed());
      break;
    case Message::kHeartbeat:
      OnHeartbeat(slot_idx, message.heartbeat());
      break;
    case Message::kUnable:
      if (!over()) Fail(absl::StrCat("worker ", slot_idx, ": ", message.unable().reason()));
      break;
    default:
      // A message of a later version says nothing that this controller could act on.
      break;
  }
}

std::string Group::CheckHello(const v1::Hello& hello, int* slot_idx) const {
  *slot_idx = -1;
  if (over()) return "the group is stopping";
  for (int i = 0; i < num_slots(); ++i) {
    if (!slot(i).worker_id.empty() && slot(i).worker_id == hello.worker_id()) *slot_idx = i;
  }
  if (*slot_idx < 0) return std::string(kUnknownWorker);
  const Slot& s = slot(*slot_idx);
  if (s.dying) return "this process is being replaced";
  if (hello.slot_hint() >= 0 && hello.slot_hint() != *slot_idx) {
    return absl::StrCat("it was started for slot ", *slot_idx, ", not ", hello.slot_hint());
  }
  if (s.member.has_value() && s.member->hello.nonce() != hello.nonce() && s.member->session != 0) {
    return absl::StrCat("another process with this worker id holds slot ", *slot_idx);
  }
  if (hello.numerics_id().empty()) return "its numerics id is empty";
  bool alone = true;
  for (int i = 0; i < num_slots(); ++i) {
    if (i != *slot_idx && slot(i).member.has_value()) alone = false;
  }
  if (!alone && hello.numerics_id() != numerics_id_) {
    return absl::StrCat("its numerics id is ", hello.numerics_id(), ", the group's is ",
                        numerics_id_, "; a mixed group would not repeat its own output");
  }
  return "";
}

void Group::OnHello(uint64_t session, const v1::Hello& hello) {
  int slot_idx = -1;
  if (slot_of_session_.contains(session)) {
    Refuse(session, "a session has one Hello");
    On(SessionClosed{session});
    return;
  }
  const std::string refusal = CheckHello(hello, &slot_idx);
  if (options_.retry_unknown_workers && refusal == kUnknownWorker) {
    actions_.emplace_back(CloseSession{session, kNoRankYet});
    return;
  }
  if (!refusal.empty()) {
    if (slot_idx >= 0 && !slot(slot_idx).member.has_value()) slot(slot_idx).refusal = refusal;
    Log(true, absl::StrCat("refused worker ", hello.worker_id(), ": ", refusal));
    Refuse(session, refusal);
    return;
  }
  Slot& s = slot(slot_idx);
  if (s.member.has_value() && s.member->hello.nonce() != hello.nonce()) {
    // The process began again under the same name; the one that we knew is gone.
    DropMember(slot_idx);
    EndEpoch(absl::StrCat("worker ", slot_idx, " began again"), /*process_ended=*/true);
  }
  const bool known = s.member.has_value();
  if (!known) {
    s.member.emplace(Member());
    s.member->progress_at = now_;
    s.refusal.clear();
  } else if (s.member->session != 0) {
    actions_.emplace_back(CloseSession{s.member->session, {}});
    slot_of_session_.erase(s.member->session);
  }
  s.member->hello = hello;
  s.member->session = session;
  s.member->heard_at = now_;
  s.member->running_epoch = hello.epoch();
  slot_of_session_[session] = slot_idx;
  numerics_id_ = hello.numerics_id();
  SendAssign(slot_idx);
  ResendEpoch(slot_idx, hello.epoch());
  Changed();
  TryStartEpoch();
}

void Group::ResendEpoch(int slot_idx, uint64_t hello_epoch) {
  const Member& member = *slot(slot_idx).member;
  const bool in_epoch =
      stage_ == Stage::kPreparing || stage_ == Stage::kJoining || stage_ == Stage::kActive;
  const bool adoptable = hello_epoch != 0 && hello_epoch == adoptable_epoch_;
  if (hello_epoch != 0 && !adoptable && !(in_epoch && hello_epoch == epoch_)) {
    SendAbort(slot_idx, hello_epoch, "it ended while the worker was not connected");
  }
  // The worker drops what it already knows.
  if (stage_ == Stage::kPreparing && !member.prepared) SendPrepare(slot_idx);
  if (stage_ == Stage::kJoining && !member.joined) SendJoin(slot_idx);
  if (stage_ == Stage::kActive && hello_epoch != epoch_) SendActivate(slot_idx);
}

void Group::On(const SessionClosed& event) {
  const auto found = slot_of_session_.find(event.session);
  if (found == slot_of_session_.end()) return;
  Member& member = *slot(found->second).member;
  member.session = 0;
  member.heard_at = now_;
  slot_of_session_.erase(found);
  Changed();
}

void Group::Dismiss(uint64_t session, const std::string& reason) {
  v1::ControllerMessage message;
  message.mutable_dismiss()->set_reason(reason);
  actions_.emplace_back(SendMessage{session, std::move(message)});
}

void Group::Refuse(uint64_t session, const std::string& reason) {
  Dismiss(session, reason);
  actions_.emplace_back(CloseSession{session, {}});
}

void Group::DropMember(int slot_idx) {
  Slot& s = slot(slot_idx);
  if (!s.member.has_value()) return;
  if (s.member->session != 0) {
    slot_of_session_.erase(s.member->session);
    actions_.emplace_back(CloseSession{s.member->session, {}});
  }
  s.member.reset();
}

void Group::OnLoaded(int slot_idx, const v1::Loaded& loaded) {
  Member& member = *slot(slot_idx).member;
  if (member.loaded.has_value()) return;  // repeated after a lost session
  const std::string digest = ModelDigest();
  if (!loaded.model_digest().empty() && !digest.empty() && loaded.model_digest() != digest) {
    // The files have changed since the others loaded them.
    const std::string refusal =
        absl::StrCat("it loaded a model with digest ", loaded.model_digest(), ", the group's is ",
                     digest, "; a mixed group would compute neither");
    slot(slot_idx).refusal = refusal;
    Log(true, absl::StrCat("refused worker ", slot_idx, ": ", refusal));
    Dismiss(member.session, refusal);
    DropMember(slot_idx);
    Changed();
    return;
  }
  member.loaded = loaded;
  member.bytes_done = loaded.bytes();
  member.bytes_total = loaded.bytes();
  for (const std::string& warning : loaded.warnings()) {
    // All ranks of one model tend to warn of the same.
    if (shown_warnings_.size() >= kMaxShownWarnings || !shown_warnings_.insert(warning).second) {
      continue;
    }
    Log(true, absl::StrCat("worker ", slot_idx, ": ", warning));
  }
  Changed();
  TryStartEpoch();
}

std::string Group::ModelDigest() const {
  for (const Slot& s : slots_) {
    if (s.member.has_value() && s.member->loaded.has_value() &&
        !s.member->loaded->model_digest().empty()) {
      return s.member->loaded->model_digest();
    }
  }
  return "";
}

void Group::OnHeartbeat(int slot_idx, const v1::Heartbeat& heartbeat) {
  Member& member = *slot(slot_idx).member;
  member.busy_seconds = heartbeat.busy_seconds();
  member.num_running = heartbeat.num_running();
  member.num_waiting = heartbeat.num_waiting();
  if (heartbeat.expert_tokens().empty()) return;  // still loading
  const absl::Status status =
      load_.Update(slot_idx, Identity(member.hello),
                   absl::MakeConstSpan(heartbeat.expert_tokens().data(),
                                       static_cast<size_t>(heartbeat.expert_tokens_size())));
  if (!status.ok()) Log(true, absl::StrCat("heartbeat ignored: ", status.message()));
}

}  // namespace moe::coordinator
