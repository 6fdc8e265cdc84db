// Making groups, and the control channel: plans and results. The layers are in
// shared_memory_group.cc.
#include "worker/exchange/shared_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/segment.h"
#include "worker/exchange/shared_memory_group.h"

namespace moe::exchange {
namespace {

uint64_t BitOf(int rank) { return uint64_t{1} << (rank % 64); }

}  // namespace

absl::StatusOr<std::unique_ptr<SharedMemoryGroup>> SharedMemoryGroup::Create(
    const GroupShape& shape, uint64_t epoch, LocalExperts* experts,
    const SharedMemoryOptions& options) {
  absl::StatusOr<std::unique_ptr<Segment>> segment = Segment::Create(shape, epoch);
  if (!segment.ok()) return segment.status();
  return std::make_unique<RankGroup>(*std::move(segment), shape, 0, experts, options);
}

absl::StatusOr<std::unique_ptr<SharedMemoryGroup>> SharedMemoryGroup::Open(
    std::string_view bootstrap, const GroupShape& shape, uint64_t epoch, int rank,
    LocalExperts* experts, const SharedMemoryOptions& options) {
  if (rank < 1 || rank >= shape.num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " can't open a group of ", shape.num_ranks, " ranks"));
  }
  absl::StatusOr<std::unique_ptr<Segment>> segment = Segment::Open(bootstrap, shape, epoch);
  if (!segment.ok()) return segment.status();
  return std::make_unique<RankGroup>(*std::move(segment), shape, rank, experts, options);
}

absl::Status RankGroup::SendPlan(uint64_t step, std::string_view plan,
                                 absl::Span<const int> ranks) {
  if (absl::Status status = state_.CheckSendPlan(step, plan, ranks); !status.ok()) return status;
  // The engine sends a plan when it has the results of the step before, so every rank has copied
  // the last plan that names it. Checked, because this overwrites it.
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    if (segment_->plan_taken(rank).load(std::memory_order_acquire) < named_in_[rank]) {
      return absl::FailedPreconditionError(
          absl::StrCat(RankName(rank), " has not taken the plan of step ", state_.plan_step()));
    }
  }

  PlanHead& head = segment_->plan_head();
  std::memcpy(segment_->plan_bytes(), plan.data(), plan.size());
  head.num_bytes = plan.size();
  head.step.store(step, std::memory_order_release);
  head.number.store(++plan_number_, std::memory_order_release);
  state_.BeginStep(step);

  std::fill(ring_masks_.begin(), ring_masks_.end(), 0);
  const auto name = [&](int rank) {
    if (rank == 0) return;
    named_in_[rank] = plan_number_;
    segment_->plan_for(rank).store(plan_number_, std::memory_order_release);
    Doorbells::AddRank(rank, absl::MakeSpan(ring_masks_));
  };
  if (shape_.replicated) {
    for (int rank = 1; rank < shape_.num_ranks; ++rank) name(rank);
  } else {
    for (const int rank : ranks) name(rank);
  }
  bells_.RingMany(ring_masks_);
  return absl::OkStatus();
}

absl::StatusOr<ControlChannel::ReceivedPlan> RankGroup::ReceivePlan() {
  if (absl::Status status = state_.CheckReceivePlan(); !status.ok()) return status;
  const SharedWord& plan_for = segment_->plan_for(rank_);
  absl::Status status =
      WaitServing([&] { return plan_for.load(std::memory_order_acquire) != plan_number_; },
                  Clock::time_point::max(), [] {}, nullptr);
  if (!status.ok()) return state_.Fail(std::move(status));

  const PlanHead& head = segment_->plan_head();
  const uint64_t number = plan_for.load(std::memory_order_acquire);
  const uint64_t step = head.step.load(std::memory_order_acquire);
  const uint64_t num_bytes = head.num_bytes;
  if (number < plan_number_ || number != head.number.load(std::memory_order_acquire) ||
      (plan_number_ != 0 && step <= state_.plan_step())) {
    return state_.Fail(absl::InternalError(
        absl::StrCat("unexpected step: plan ", number, " of step ", step, " after plan ",
                     plan_number_, " of step ", state_.plan_step())));
  }
  if (num_bytes > kMaxPlanBytes) {
    return state_.Fail(absl::InternalError(
        absl::StrCat("the plan of step ", step, " is corrupt: ", num_bytes, " bytes")));
  }
  ReceivedPlan plan{step, std::string(segment_->plan_bytes(), num_bytes)};
  plan_number_ = number;
  state_.BeginStep(step);
  segment_->plan_taken(rank_).store(number, std::memory_order_release);
  return plan;
}

absl::Status RankGroup::SendResult(uint64_t step, std::string_view result) {
  if (absl::Status status = state_.CheckSendResult(step, result); !status.ok()) return status;
  // The leader has read the result before: it sent the plan of this step after that.
  ResultHead& head = segment_->result_head(rank_);
  std::memcpy(segment_->result_bytes(rank_), result.data(), result.size());
  head.num_bytes = result.size();
  state_.ResultSent();
  // Either the leader's later look at `number` sees it, or the bit that it set before looking is
  // still there to be cleared here: both sides go through the word in sequentially consistent
  // order. Only the rank that clears the last bit rings, so the leader sleeps until then.
  head.number.store(plan_number_, std::memory_order_seq_cst);
  const uint64_t before =
      segment_->awaited()[rank_ / 64].fetch_and(~BitOf(rank_), std::memory_order_seq_cst);
  if (before == BitOf(rank_)) bells_.Ring(0);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> RankGroup::ReceiveResults(uint64_t step,
                                                                   absl::Span<const int> ranks) {
  if (absl::Status status = state_.CheckReceiveResults(step); !status.ok()) return status;
  for (const int rank : ranks) {
    if (rank < 1 || rank >= shape_.num_ranks || named_in_[rank] != plan_number_) {
      return absl::InvalidArgumentError(
          absl::StrCat("the plan of step ", step, " does not name rank ", rank));
    }
  }

  const auto has_result = [&](int rank) {
    return segment_->result_head(rank).number.load(std::memory_order_seq_cst) == plan_number_;
  };
  const auto first_missing = [&] {
    for (const int rank : ranks) {
      if (!has_result(rank)) return rank;
    }
    return -1;
  };
  SharedWord* awaited = segment_->awaited();
  std::vector<uint64_t> masks(asked_.size());
  for (const int rank : ranks) masks[rank / 64] |= BitOf(rank);
  for (size_t i = 0; i < masks.size(); ++i) awaited[i].store(masks[i], std::memory_order_seq_cst);
  for (const int rank : ranks) {
    if (has_result(rank)) awaited[rank / 64].fetch_and(~BitOf(rank), std::memory_order_seq_cst);
  }
  absl::Status status =
      WaitServing([&] { return first_missing() < 0; }, After(options_.step_deadline),
                  [&] {
                    for (const int rank : ranks) {
                      if (!has_result(rank)) bells_.RingAlways(rank);
                    }
                  },
                  nullptr);
  if (absl::IsDeadlineExceeded(status)) {
    status = state_.DeadlineMissed(first_missing(),
                                   absl::StrCat("did not send its result of step ", step));
  }
  if (!status.ok()) return state_.Fail(std::move(status));

  std::vector<std::string> results;
  results.reserve(ranks.size());
  for (const int rank : ranks) {
    const uint64_t num_bytes = segment_->result_head(rank).num_bytes;
    if (num_bytes > kMaxResultBytes) {
      return state_.Fail(absl::InternalError(
          absl::StrCat("the result of ", RankName(rank), " is corrupt: ", num_bytes, " bytes")));
    }
    results.emplace_back(segment_->result_bytes(rank), num_bytes);
    segment_->DiscardResult(rank, num_bytes);
  }
  return results;
}

}  // namespace moe::exchange
