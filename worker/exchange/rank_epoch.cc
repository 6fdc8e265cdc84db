#include "worker/exchange/rank_epoch.h"

#include <utility>

namespace moe::exchange {
namespace {

absl::Status CheckSize(absl::string_view what, uint64_t step, size_t num_bytes, size_t max_bytes) {
  if (num_bytes <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", what, " of step ", step, " has ",
                                                 num_bytes, " bytes, more than ", max_bytes));
}

absl::Span<const int32_t> ExpertsOf(const GroupShape& shape, int num_rows,
                                    const int32_t* expert_ids) {
  return {expert_ids, static_cast<size_t>(num_rows) * shape.top_k};
}

}  // namespace

// ---- Its end

void RankEpoch::Abort(std::string_view reason) {
  const absl::MutexLock lock(&abort_mutex_);
  if (!aborted_.load(std::memory_order_relaxed)) abort_reason_ = std::string(reason);
  aborted_.store(true, std::memory_order_release);
}

absl::Status RankEpoch::AbortedStatus() const {
  const absl::MutexLock lock(&abort_mutex_);
  return absl::AbortedError(abort_reason_);
}

absl::Status RankEpoch::Fail(absl::Status status) {
  if (failure_.ok() && !absl::IsAborted(status)) failure_ = status;
  return status;
}

absl::Status RankEpoch::DeadlineMissed(int rank, absl::string_view what) {
  Suspect(rank);
  return absl::DeadlineExceededError(absl::StrCat(RankName(rank), " ", what));
}

// ---- Joining

absl::Status RankEpoch::BeginConnect() {
  if (aborted()) return AbortedStatus();
  if (phase_ != Phase::kNew) return absl::FailedPreconditionError("Connect was called before");
  phase_ = Phase::kConnecting;
  return absl::OkStatus();
}

// ---- The order of calls

absl::Status RankEpoch::CheckUsable() const {
  if (aborted()) return AbortedStatus();
  if (!failure_.ok()) return failure_;
  if (phase_ != Phase::kReady) {
    return absl::FailedPreconditionError("the exchange is not connected");
  }
  return absl::OkStatus();
}

absl::Status RankEpoch::CheckNoLayerIsOut(absl::string_view call) const {
  if (!layer_is_out_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(call, " between Dispatch and Combine"));
}

absl::Status RankEpoch::CheckSendPlan(uint64_t step, std::string_view plan,
                                      absl::Span<const int> ranks) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (rank_ != 0) return absl::FailedPreconditionError("only rank 0 sends plans");
  if (absl::Status status = CheckSize("plan", step, plan.size(), kMaxPlanBytes); !status.ok()) {
    return status;
  }
  if (has_plan_ && step != plan_step_ + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan of step ", step, " after that of step ", plan_step_));
  }
  if (absl::Status status = CheckNoLayerIsOut("SendPlan"); !status.ok()) return status;
  for (const int rank : ranks) {
    if (rank < 0 || rank >= shape_.num_ranks) {
      return absl::InvalidArgumentError(absl::StrCat("no rank ", rank));
    }
  }
  return absl::OkStatus();
}

absl::Status RankEpoch::CheckReceivePlan() const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (rank_ == 0) return absl::FailedPreconditionError("rank 0 sends plans");
  return CheckNoLayerIsOut("ReceivePlan");
}

void RankEpoch::BeginStep(uint64_t step) {
  has_plan_ = true;
  plan_step_ = step;
  result_due_ = rank_ != 0;
}

absl::Status RankEpoch::CheckSendResult(uint64_t step, std::string_view result) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (rank_ == 0) return absl::FailedPreconditionError("rank 0 receives results");
  if (!result_due_ || step != plan_step_) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", step, " expects no result from ", RankName(rank_)));
  }
  return CheckSize("result", step, result.size(), kMaxResultBytes);
}

absl::Status RankEpoch::CheckReceiveResults(uint64_t step) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (rank_ != 0) return absl::FailedPreconditionError("only rank 0 receives results");
  if (absl::Status status = CheckNoLayerIsOut("ReceiveResults"); !status.ok()) return status;
  if (!has_plan_ || (step != plan_step_ && !(plans_ahead_ && step + 1 == plan_step_))) {
    return absl::FailedPreconditionError(absl::StrCat("step ", step, " is not the current step"));
  }
  return absl::OkStatus();
}

absl::Status RankEpoch::CheckDispatch(uint64_t step, int layer, int num_rows,
                                      const int32_t* expert_ids) const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (!is_owner()) {
    return absl::FailedPreconditionError(absl::StrCat(RankName(rank_), " owns no rows"));
  }
  if (layer_is_out_) return absl::FailedPreconditionError("Dispatch before Combine");
  if (num_rows < 1 || num_rows > shape_.max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(num_rows, " rows, not in [1, ", shape_.max_rows, "]"));
  }
  if (layer < 0 || layer >= shape_.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer, " of ", shape_.num_layers, " layers"));
  }
  if (dispatched_.layer >= 0 && StepLayer{step, layer} <= dispatched_) {
    return absl::FailedPreconditionError(
        absl::StrCat(LayerName({step, layer}), " after ", LayerName(dispatched_)));
  }
  // A rank that is alone needs no plan.
  if (shape_.num_ranks > 1 && (!has_plan_ || plan_step_ != step)) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", step, " has no plan: the current plan is of step ", plan_step_));
  }
  for (const int32_t expert : ExpertsOf(shape_, num_rows, expert_ids)) {
    if (expert < 0 || expert >= shape_.num_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", expert, " of ", shape_.num_experts, " experts"));
    }
  }
  return absl::OkStatus();
}

void RankEpoch::BeginLayer(uint64_t step, int layer, int num_rows, const int32_t* expert_ids) {
  layer_is_out_ = true;
  dispatched_ = {step, layer};
  if (!shape_.replicated) return;
  // FNV-1a.
  digest_ = 0xcbf29ce484222325;
  const auto mix = [this](uint64_t value) { digest_ = (digest_ ^ value) * 0x100000001b3; };
  mix(step);
  mix(static_cast<uint64_t>(layer));
  mix(static_cast<uint64_t>(num_rows));
  for (const int32_t expert : ExpertsOf(shape_, num_rows, expert_ids)) {
    mix(static_cast<uint64_t>(expert));
  }
}

absl::Status RankEpoch::CheckCombine() const {
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (!layer_is_out_) return absl::FailedPreconditionError("Combine without Dispatch");
  return absl::OkStatus();
}

}  // namespace moe::exchange
