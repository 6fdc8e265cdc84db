#include "controller/operator/recovery.h"

namespace moe::controller {
namespace {

using coordinator::v1::GroupState;

bool AllPresent(const GroupState& state) {
  for (const GroupState::Worker& worker : state.workers()) {
    if (worker.host().empty()) return false;  // it has said no Hello
  }
  return true;
}

bool AllLoaded(const GroupState& state) {
  for (const GroupState::Worker& worker : state.workers()) {
    if (worker.loaded_bytes() == 0) return false;
  }
  return true;
}

}  // namespace

const char* RecoveryPhaseName(RecoveryPhase phase) {
  switch (phase) {
    case RecoveryPhase::kDetect:
      return "detect";
    case RecoveryPhase::kReplace:
      return "replace";
    case RecoveryPhase::kLoad:
      return "load";
    case RecoveryPhase::kJoin:
      return "join";
  }
  return "unknown";
}

std::vector<RecoveryTime> RecoveryTracker::OnState(const GroupState& state, absl::Time now) {
  std::vector<RecoveryTime> times;
  const auto end_phase = [&](RecoveryPhase next) {
    times.push_back({*phase_, now - since_});
    phase_ = next;
    since_ = now;
  };
  const bool active = state.phase() == GroupState::ACTIVE && state.epoch() > 0;
  if (state.phase() == GroupState::FAILED || state.phase() == GroupState::STOPPING) {
    phase_.reset();
  } else if (!phase_.has_value() && epoch_ > 0 && (!active || state.epoch() != epoch_)) {
    phase_ = RecoveryPhase::kReplace;
    since_ = now;
  }
  if (phase_ == RecoveryPhase::kReplace && (active || AllPresent(state))) {
    end_phase(RecoveryPhase::kLoad);
  }
  if (phase_ == RecoveryPhase::kLoad && (active || AllLoaded(state))) {
    end_phase(RecoveryPhase::kJoin);
  }
  if (phase_ == RecoveryPhase::kJoin && active) {
    times.push_back({RecoveryPhase::kJoin, now - since_});
    phase_.reset();
  }
  if (active && state.epoch() != epoch_) ++num_epochs_;
  epoch_ = active ? state.epoch() : 0;
  return times;
}

}  // namespace moe::controller
