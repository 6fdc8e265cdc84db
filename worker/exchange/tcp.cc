// Making Tcp groups, and their control channel: plans and results. The layers are in tcp_layers.cc.
#include "worker/exchange/tcp.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/segment.h"
#include "worker/exchange/tcp_group.h"

namespace moe::exchange {
namespace {

absl::Status CheckOptions(const GroupShape& shape, const TcpOptions& options) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  if (options.listener == nullptr) {
    return absl::InvalidArgumentError("the Tcp exchange has no listener");
  }
  if (static_cast<int>(options.addresses.size()) != shape.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.addresses.size(), " addresses for a group of ", shape.num_ranks, " ranks"));
  }
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    if (options.addresses[rank].empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, " has no address for the Tcp exchange"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<TcpGroup>> TcpGroup::Create(const GroupShape& shape, uint64_t epoch,
                                                           LocalExperts* experts,
                                                           const TcpOptions& options) {
  if (absl::Status status = CheckOptions(shape, options); !status.ok()) return status;
  const absl::StatusOr<Bytes32> secret = DrawBytes32();
  if (!secret.ok()) return secret.status();
  return TcpRank::Make(shape, epoch, 0, *secret, MakeTcpBootstrap(*secret, epoch, shape), experts,
                       options);
}

absl::StatusOr<std::unique_ptr<TcpGroup>> TcpGroup::Open(std::string_view bootstrap,
                                                         const GroupShape& shape, uint64_t epoch,
                                                         int rank, LocalExperts* experts,
                                                         const TcpOptions& options) {
  if (rank < 1 || rank >= shape.num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " can't open a group of ", shape.num_ranks, " ranks"));
  }
  if (absl::Status status = CheckOptions(shape, options); !status.ok()) return status;
  const absl::StatusOr<Bytes32> secret = ParseTcpBootstrap(bootstrap, epoch, shape);
  if (!secret.ok()) return secret.status();
  return TcpRank::Make(shape, epoch, rank, *secret, "", experts, options);
}

// ---- Plans

absl::Status TcpRank::SendPlan(uint64_t step, std::string_view plan, absl::Span<const int> ranks) {
  if (absl::Status status = state_.CheckSendPlan(step, plan, ranks); !status.ok()) return status;
  // The engine sends a plan when it has the results of the step before, or of the one before that.
  // Checked, because that plan may still be under way to a rank that has not answered.
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    for (const DueResult& result : peers_[rank].results) {
      if (!result.step.has_value() || (state_.plans_ahead() && *result.step + 1 == step)) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(RankName(rank), " has not answered the plan of step ", *result.step));
    }
  }

  std::string& text = sent_[SlotOf(step)];
  text.assign(plan.data(), plan.size());
  state_.BeginStep(step);
  latest_step_ = step;
  FrameHeader header = MakeFrame(FrameType::kPlan, epoch_, step);
  header.num_bytes = text.size();
  ranges_.Clear();
  ranges_.Add(text.data(), text.size());
  const auto send = [&](int rank) -> absl::Status {
    DueResult& result = ResultOf(rank, step);
    if (rank == 0 || result.step.has_value()) return absl::OkStatus();
    result = {.step = step};
    return Send(rank, header, ranges_.ranges());
  };
  for (int rank = 1; shape_.replicated && rank < shape_.num_ranks; ++rank) {
    if (absl::Status status = send(rank); !status.ok()) return state_.Fail(std::move(status));
  }
  for (const int rank : ranks) {
    if (absl::Status status = send(rank); !status.ok()) return state_.Fail(std::move(status));
  }
  return absl::OkStatus();
}

absl::Status TcpRank::BeginPlan() {
  Connection& leader = *peers_[0].connection;
  const FrameHeader& header = leader.header();
  if (!state_.is_ready() && !may_start_) return Unexpected(header, "while ranks join");
  const bool owes_result = state_.result_due() || leader.HasUnsent(FrameType::kResult);
  if (plan_arrived_ || (owes_result && !state_.plans_ahead())) {
    return Unexpected(header, absl::StrCat("before the result of step ", latest_step_));
  }
  if (header.step < latest_step_ || (state_.has_plan() && header.step <= state_.plan_step())) {
    return Unexpected(header, absl::StrCat("after step ", latest_step_));
  }
  plan_text_.resize(header.num_bytes);
  const iovec body{.iov_base = plan_text_.data(), .iov_len = plan_text_.size()};
  leader.SetBody({&body, header.num_bytes > 0 ? size_t{1} : size_t{0}});
  return absl::OkStatus();
}

absl::StatusOr<ControlChannel::ReceivedPlan> TcpRank::ReceivePlan() {
  if (absl::Status status = state_.CheckReceivePlan(); !status.ok()) return status;
  absl::Status status =
      WaitServing([this] { return plan_arrived_; }, Clock::time_point::max(), nullptr);
  if (!status.ok()) return state_.Fail(std::move(status));
  plan_arrived_ = false;
  state_.BeginStep(latest_step_);
  return ReceivedPlan{latest_step_, std::exchange(plan_text_, {})};
}

// ---- Results

absl::Status TcpRank::SendResult(uint64_t step, std::string_view result) {
  if (absl::Status status = state_.CheckSendResult(step, result); !status.ok()) return status;
  state_.ResultSent();
  // The last result may be under way still.
  std::string& text = sent_[SlotOf(step)];
  text.assign(result.data(), result.size());
  FrameHeader header = MakeFrame(FrameType::kResult, epoch_, step);
  header.num_bytes = text.size();
  ranges_.Clear();
  ranges_.Add(text.data(), text.size());
  absl::Status status = Send(0, header, ranges_.ranges());
  return status.ok() ? status : state_.Fail(std::move(status));
}

absl::Status TcpRank::BeginResult(int rank) {
  Connection& connection = *peers_[rank].connection;
  const FrameHeader& header = connection.header();
  DueResult& result = ResultOf(rank, header.step);
  // The plan ahead may be unsent as long as it is not the one that is answered.
  const bool is_unsent =
      header.step == state_.plan_step() && connection.HasUnsent(FrameType::kPlan);
  if (rank_ != 0 || result.step != header.step || result.has_come || is_unsent) {
    return Unexpected(header, "which it was not asked for");
  }
  result.text.resize(header.num_bytes);
  const iovec body{.iov_base = result.text.data(), .iov_len = result.text.size()};
  connection.SetBody({&body, header.num_bytes > 0 ? size_t{1} : size_t{0}});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> TcpRank::ReceiveResults(uint64_t step,
                                                                 absl::Span<const int> ranks) {
  if (absl::Status status = state_.CheckReceiveResults(step); !status.ok()) return status;
  for (const int rank : ranks) {
    if (rank < 1 || rank >= shape_.num_ranks || ResultOf(rank, step).step != step) {
      return absl::InvalidArgumentError(
          absl::StrCat("the plan of step ", step, " does not name rank ", rank));
    }
  }
  awaited_step_ = step;
  const auto all_have_come = [&] {
    const auto missing = std::find_if(ranks.begin(), ranks.end(),
                                      [&](int rank) { return !ResultOf(rank, step).has_come; });
    awaited_result_ = missing == ranks.end() ? -1 : *missing;
    return awaited_result_ < 0;
  };
  absl::Status status = WaitServing(all_have_come, After(options_.step_deadline), nullptr);
  if (absl::IsDeadlineExceeded(status)) {
    status = state_.DeadlineMissed(awaited_result_,
                                   absl::StrCat("did not send its result of step ", step));
  }
  awaited_result_ = -1;
  if (!status.ok()) return state_.Fail(std::move(status));
  std::vector<std::string> results;
  results.reserve(ranks.size());
  for (const int rank : ranks) {
    results.push_back(std::exchange(ResultOf(rank, step), {}).text);
  }
  return results;
}

}  // namespace moe::exchange
