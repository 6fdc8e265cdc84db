#include "worker/engine/epoch_loop.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "kernels/numerics.h"

namespace moe::engine {
namespace {

// How long the leader sleeps without work before it looks whether its epoch is over.
constexpr absl::Duration kIdlePoll = absl::Milliseconds(100);

bool Stopped(const EpochRank& rank) { return rank.stop->load(std::memory_order_acquire); }

absl::StatusOr<v1::StepResult> ParseResult(const std::string& bytes, const v1::StepPlan& plan,
                                           int from) {
  v1::StepResult result;
  if (!result.ParseFromString(bytes)) {
    return absl::InternalError(absl::StrFormat("rank %d sent a result that can't be read", from));
  }
  if (result.epoch() != plan.epoch() || result.step() != plan.step()) {
    return absl::InternalError(
        absl::StrFormat("rank %d answered epoch %d step %d, where epoch %d step %d was asked", from,
                        result.epoch(), result.step(), plan.epoch(), plan.step()));
  }
  return result;
}

// The leader's end of the control channel. A leader that is alone has nobody to tell.
absl::Status SendPlan(const EpochRank& rank, const v1::StepPlan& plan) {
  if (rank.num_ranks == 1) return absl::OkStatus();
  return rank.control->SendPlan(plan.step(), plan.SerializeAsString(), RanksOfPlan(plan, rank));
}

absl::Status ReceiveResults(const EpochRank& rank, const v1::StepPlan& plan,
                            std::vector<v1::StepResult>* results) {
  if (rank.num_ranks == 1) return absl::OkStatus();
  const std::vector<int> ranks = RanksOfPlan(plan, rank);
  const auto answers = rank.control->ReceiveResults(plan.step(), ranks);
  if (!answers.ok()) return answers.status();
  for (size_t i = 0; i < ranks.size(); ++i) {
    auto result = ParseResult((*answers)[i], plan, ranks[i]);
    if (!result.ok()) return result.status();
    results->push_back(*std::move(result));
  }
  return absl::OkStatus();
}

absl::Status Start(const EpochRank& rank, const v1::StepPlan& plan) {
  rank.current_step->store(plan.step(), std::memory_order_relaxed);
  return rank.owner->Start(plan, rank.layers);
}

// Where the device computes by itself, the next step is planned and told while it does, and started
// as soon as this rank has its tokens of the one before. A step that is computed inside Start would
// hold those tokens up.
bool PlansAhead(const EpochRank& rank) {
  return rank.layers->asynchronous() && !rank.replicated &&
         (rank.num_ranks == 1 || rank.control->TakesPlanAhead());
}

// The step of a rank that owns no sequences. Only where every rank runs every step is there one.
absl::StatusOr<v1::StepResult> RunExperts(const v1::StepPlan& plan, const EpochRank& rank) {
  if (!rank.layers->collective()) {
    return absl::InternalError("the leader planned rows for a rank that owns no sequences");
  }
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  result.set_rank(static_cast<uint32_t>(rank.rank));
  if (plan.slices().empty()) return result;
  const auto outline = OutlineOf(plan, rank.num_ranks, rank.replicated);
  if (!outline.ok()) return outline.status();
  if (outline->num_rows[static_cast<size_t>(rank.rank)] > 0) {
    return absl::InternalError("the leader planned rows for a rank that owns no sequences");
  }
  if (absl::Status status = rank.layers->Run(*outline); !status.ok()) return status;
  return result;
}

}  // namespace

std::vector<int> RanksOfPlan(const v1::StepPlan& plan, const EpochRank& rank) {
  std::vector<int> ranks;
  if (rank.replicated || rank.layers->collective()) {
    for (int other = 1; other < rank.num_ranks; ++other) ranks.push_back(other);
    return ranks;
  }
  for (const v1::SequenceSlice& slice : plan.slices()) {
    if (slice.owner() != 0) ranks.push_back(static_cast<int>(slice.owner()));
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

absl::Status LeadEpoch(const EpochRank& rank, Leader* leader) {
  const kernels::ScopedFlushDenormals flush_denormals;
  const bool plans_ahead = PlansAhead(rank);
  const auto keep = [](std::optional<v1::StepPlan> given) {
    return given.has_value() ? std::make_unique<v1::StepPlan>(*std::move(given)) : nullptr;
  };
  std::unique_ptr<v1::StepPlan> plan;  // that was sent and started; the owner holds on to it
  while (!Stopped(rank)) {
    if (plan == nullptr) {
      if (!leader->WaitForWork(kIdlePoll)) continue;
      plan = keep(leader->NextPlan(absl::Now()));
      if (plan == nullptr) continue;
      if (absl::Status status = SendPlan(rank, *plan); !status.ok()) return status;
      if (absl::Status status = Start(rank, *plan); !status.ok()) return status;
    }
    std::unique_ptr<v1::StepPlan> next;
    if (plans_ahead) next = keep(leader->PlanAhead());
    if (next != nullptr) {
      if (absl::Status status = SendPlan(rank, *next); !status.ok()) return status;
    }
    std::vector<v1::StepResult> results;
    auto own = rank.owner->Finish();
    if (!own.ok()) return own.status();
    results.push_back(*std::move(own));
    if (next != nullptr) {
      if (absl::Status status = Start(rank, *next); !status.ok()) return status;
    }
    if (absl::Status status = ReceiveResults(rank, *plan, &results); !status.ok()) return status;
    if (absl::Status status = leader->Commit(*plan, results, absl::Now()); !status.ok()) {
      return status;
    }
    plan = std::move(next);
  }
  return absl::AbortedError("the epoch is over");
}

absl::Status FollowEpoch(const EpochRank& rank) {
  const kernels::ScopedFlushDenormals flush_denormals;
  while (!Stopped(rank)) {
    const auto received = rank.control->ReceivePlan();
    if (!received.ok()) return received.status();
    v1::StepPlan plan;
    if (!plan.ParseFromString(received->plan)) {
      return absl::InternalError("the leader sent a plan that can't be read");
    }
    if (plan.epoch() != rank.epoch || plan.step() != received->step) {
      return absl::InternalError(
          absl::StrFormat("the leader sent a plan of epoch %d step %d, expected epoch %d step %d",
                          plan.epoch(), plan.step(), rank.epoch, received->step));
    }
    rank.current_step->store(plan.step(), std::memory_order_relaxed);
    const auto result =
        rank.owner != nullptr ? rank.owner->RunStep(plan, rank.layers) : RunExperts(plan, rank);
    if (!result.ok()) return result.status();
    if (absl::Status status = rank.control->SendResult(received->step, result->SerializeAsString());
        !status.ok()) {
      return status;
    }
  }
  return absl::AbortedError("the epoch is over");
}

}  // namespace moe::engine
