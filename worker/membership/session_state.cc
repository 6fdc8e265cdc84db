#include "worker/membership/session_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::membership {
namespace {

using coordinator::v1::ControllerMessage;
using coordinator::v1::WorkerMessage;

bool SameWork(const coordinator::v1::Assign& a, const coordinator::v1::Assign& b) {
  return a.slot() == b.slot() && a.spec().SerializeAsString() == b.spec().SerializeAsString();
}

}  // namespace

bool SessionState::Admit(uint64_t term, uint64_t epoch, std::string* refusal) {
  if (std::pair(term, epoch) < std::pair(term_, seen_epoch_)) {
    *refusal = absl::StrCat("term ", term, ", epoch ", epoch, " is below term ", term_, ", epoch ",
                            seen_epoch_);
    return false;
  }
  term_ = term;
  // A new term never restarts the count of epochs, and must not make an old epoch look new.
  seen_epoch_ = std::max(seen_epoch_, epoch);
  return true;
}

void SessionState::EndEpoch() {
  stage_ = Stage::kNone;
  epoch_ = 0;
  prepared_.reset();
  joined_ = false;
  failed_.reset();
}

SessionState::Received SessionState::Receive(const ControllerMessage& message) {
  Received received;
  const auto deliver = [&](Delivery::Kind kind) { received.deliveries.push_back({kind, message}); };
  switch (message.message_case()) {
    case ControllerMessage::kAssign:
      if (message.assign().term() < term_) {
        received.refusal = absl::StrCat("term ", message.assign().term(), " is below ", term_);
      } else if (!assign_.has_value()) {
        term_ = message.assign().term();
        assign_ = message.assign();
        deliver(Delivery::kAssign);
      } else if (SameWork(*assign_, message.assign())) {
        term_ = message.assign().term();
      } else {
        received.refusal = "a process is assigned once";
        SayUnable(absl::StrCat("this process already serves slot ", assign_->slot(),
                               " and can't take another assignment"));
        received.answers.emplace_back().mutable_unable()->set_reason(*unable_);
      }
      break;
    case ControllerMessage::kPrepare: {
      const uint64_t epoch = message.prepare().epoch();
      const bool repeated = epoch == seen_epoch_;
      if (!Admit(message.prepare().term(), epoch, &received.refusal) || repeated) break;
      if (!assign_.has_value()) {
        received.refusal = "Prepare before Assign";
        break;
      }
      if (stage_ != Stage::kNone) {
        ControllerMessage abort;
        abort.mutable_abort()->set_term(term_);
        abort.mutable_abort()->set_epoch(epoch_);
        abort.mutable_abort()->set_reason(absl::StrCat("epoch ", epoch, " is being prepared"));
        received.deliveries.push_back({Delivery::kAbort, std::move(abort)});
        EndEpoch();
      }
      epoch_ = epoch;
      stage_ = Stage::kPreparing;
      deliver(Delivery::kPrepare);
      break;
    }
    case ControllerMessage::kJoin: {
      const uint64_t epoch = message.join().epoch();
      if (!Admit(message.join().term(), epoch, &received.refusal)) break;
      if (stage_ == Stage::kPreparing && epoch == epoch_ && !failed_.has_value()) {
        stage_ = Stage::kJoining;
        deliver(Delivery::kJoin);
      }
      break;
    }
    case ControllerMessage::kActivate: {
      const uint64_t epoch = message.activate().epoch();
      if (!Admit(message.activate().term(), epoch, &received.refusal)) break;
      if (stage_ == Stage::kJoining && epoch == epoch_ && !failed_.has_value()) {
        stage_ = Stage::kActive;
        prepared_.reset();
        joined_ = false;
        deliver(Delivery::kActivate);
      }
      break;
    }
    case ControllerMessage::kAbort: {
      const uint64_t epoch = message.abort().epoch();
      if (!Admit(message.abort().term(), epoch, &received.refusal)) break;
      if (stage_ != Stage::kNone && epoch == epoch_) {
        EndEpoch();
        deliver(Delivery::kAbort);
      }
      break;
    }
    case ControllerMessage::kDismiss:
      deliver(Delivery::kDismiss);
      break;
    case ControllerMessage::MESSAGE_NOT_SET:
      received.refusal = "a message of an unknown kind";
      break;
  }
  return received;
}

void SessionState::FillHello(coordinator::v1::Hello* hello) const {
  hello->set_term(term_);
  hello->set_epoch(running_epoch());
  if (assign_.has_value()) hello->set_slot_hint(static_cast<int32_t>(assign_->slot()));
}

std::vector<WorkerMessage> SessionState::Replay() const {
  std::vector<WorkerMessage> messages;
  if (loaded_.has_value()) *messages.emplace_back().mutable_loaded() = *loaded_;
  if (prepared_.has_value()) *messages.emplace_back().mutable_prepared() = *prepared_;
  if (joined_) messages.emplace_back().mutable_joined()->set_epoch(epoch_);
  if (failed_.has_value()) *messages.emplace_back().mutable_epoch_failed() = *failed_;
  if (unable_.has_value()) messages.emplace_back().mutable_unable()->set_reason(*unable_);
  return messages;
}

bool SessionState::SayLoaded(const coordinator::v1::Loaded& loaded) {
  if (loaded_.has_value()) return false;
  loaded_ = loaded;
  return true;
}

bool SessionState::SayPrepared(const coordinator::v1::Prepared& prepared) {
  if (stage_ != Stage::kPreparing || prepared.epoch() != epoch_ || failed_.has_value()) {
    return false;
  }
  prepared_ = prepared;
  return true;
}

bool SessionState::SayJoined(uint64_t epoch) {
  if (stage_ != Stage::kJoining || epoch != epoch_ || failed_.has_value()) return false;
  joined_ = true;
  return true;
}

bool SessionState::SayEpochFailed(const coordinator::v1::EpochFailed& failed) {
  if (stage_ == Stage::kNone || failed.epoch() != epoch_ || failed_.has_value()) return false;
  failed_ = failed;
  prepared_.reset();
  joined_ = false;
  return true;
}

void SessionState::SayUnable(std::string_view reason) {
  if (!unable_.has_value()) unable_ = std::string(reason);
}

uint64_t SessionState::running_epoch() const {
  return stage_ == Stage::kActive && !failed_.has_value() ? epoch_ : 0;
}

}  // namespace moe::membership
