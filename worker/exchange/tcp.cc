// Making Tcp groups, and their control channel: plans and results. The layers are in tcp_layers.cc.
#include "worker/exchange/tcp.h"

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
  // The engine sends a plan when it has the results of the step before. Checked, because the plan
  // before may still be under way to a rank that has not answered.
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    if (peers_[rank].owes_result) {
      return absl::FailedPreconditionError(
          absl::StrCat(RankName(rank), " has not answered the plan of step ", state_.plan_step()));
    }
  }

  plan_text_.assign(plan.data(), plan.size());
  state_.BeginStep(step);
  latest_step_ = step;
  FrameHeader header = MakeFrame(FrameType::kPlan, epoch_, step);
  header.num_bytes = plan_text_.size();
  ranges_.Clear();
  ranges_.Add(plan_text_.data(), plan_text_.size());
  const auto send = [&](int rank) -> absl::Status {
    Peer& peer = peers_[rank];
    if (rank == 0 || peer.owes_result) return absl::OkStatus();
    peer.owes_result = true;
    peer.has_result = false;
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
  if (plan_arrived_ || state_.result_due() || leader.HasUnsent(FrameType::kResult)) {
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
  result_text_.assign(result.data(), result.size());
  FrameHeader header = MakeFrame(FrameType::kResult, epoch_, step);
  header.num_bytes = result_text_.size();
  ranges_.Clear();
  ranges_.Add(result_text_.data(), result_text_.size());
  absl::Status status = Send(0, header, ranges_.ranges());
  return status.ok() ? status : state_.Fail(std::move(status));
}

absl::Status TcpRank::BeginResult(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  if (rank_ != 0 || !peer.owes_result || peer.has_result || header.step != state_.plan_step() ||
      peer.connection->HasUnsent(FrameType::kPlan)) {
    return Unexpected(header, "which it was not asked for");
  }
  peer.result.resize(header.num_bytes);
  const iovec body{.iov_base = peer.result.data(), .iov_len = peer.result.size()};
  peer.connection->SetBody({&body, header.num_bytes > 0 ? size_t{1} : size_t{0}});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> TcpRank::ReceiveResults(uint64_t step,
                                                                 absl::Span<const int> ranks) {
  if (absl::Status status = state_.CheckReceiveResults(step); !status.ok()) return status;
  for (const int rank : ranks) {
    if (rank < 1 || rank >= shape_.num_ranks || !peers_[rank].owes_result) {
      return absl::InvalidArgumentError(
          absl::StrCat("the plan of step ", step, " does not name rank ", rank));
    }
  }
  const auto first_missing = [&] {
    for (const int rank : ranks) {
      if (!peers_[rank].has_result) return rank;
    }
    return -1;
  };
  absl::Status status =
      WaitServing([&] { return first_missing() < 0; }, After(options_.step_deadline), nullptr);
  if (absl::IsDeadlineExceeded(status)) {
    status = state_.DeadlineMissed(first_missing(),
                                   absl::StrCat("did not send its result of step ", step));
  }
  if (!status.ok()) return state_.Fail(std::move(status));
  std::vector<std::string> results;
  results.reserve(ranks.size());
  for (const int rank : ranks) {
    peers_[rank].owes_result = false;
    results.push_back(std::exchange(peers_[rank].result, {}));
  }
  return results;
}

}  // namespace moe::exchange
