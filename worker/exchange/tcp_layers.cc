// Dispatch, Combine and serving of a Tcp group.
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/tcp_group.h"

namespace moe::exchange {
namespace {

// How long an owner goes on sending rows, where buffers are full, before it runs its own experts.
constexpr std::chrono::milliseconds kSendPatience(2);

StepLayer At(const FrameHeader& header) { return {header.step, header.layer}; }

}  // namespace

// ---- Serving other owners

absl::Status TcpRank::BeginDispatch(int owner) {
  Peer& peer = peers_[owner];
  const FrameHeader& header = peer.connection->header();
  if (shape_.replicated || owner >= shape_.num_attention_ranks) {
    return Unexpected(header, "and owns no rows");
  }
  if (experts_ == nullptr) return Unexpected(header, "and rows do not travel here");
  if (peer.connection->HasUnsent(FrameType::kOutputs)) {
    return Unexpected(header, "before it took the answer to the layer before");
  }
  // The leader sends a plan only when all owners have finished the step before, and owners start a
  // step only after its plan. So a rank that has a part in the current plan knows the only step
  // that work can be of; any other rank has heard of this step or will not hear of a lower one.
  const bool knows_step = rank_ == 0 ? state_.has_plan() : plan_arrived_ || state_.result_due();
  if ((rank_ == 0 && !state_.has_plan()) || header.step < latest_step_ ||
      (knows_step && header.step != latest_step_)) {
    return Unexpected(header, absl::StrCat("while step ", latest_step_, " is current"));
  }
  if (peer.served_layer >= 0 && header.step == peer.served_step &&
      header.layer <= peer.served_layer) {
    return Unexpected(header, absl::StrCat("after layer ", peer.served_layer));
  }
  latest_step_ = header.step;
  peer.served_step = header.step;
  peer.served_layer = header.layer;
  const iovec body{.iov_base = peer.dispatch.Resize(header.num_bytes), .iov_len = header.num_bytes};
  peer.connection->SetBody({&body, 1});
  return absl::OkStatus();
}

absl::Status TcpRank::Serve(int owner) {
  const Clock::time_point start = Clock::now();
  Peer& peer = peers_[owner];
  const FrameHeader& header = peer.connection->header();
  const char* body = peer.dispatch.data();
  if (absl::Status status = ReadPairs(shape_, rank_, header, body, &serving_); !status.ok()) {
    return Blame(owner, status);
  }
  FrameHeader answer = MakeFrame(FrameType::kOutputs, epoch_, header.step, header.layer);
  answer.num_pairs = header.num_pairs;
  answer.num_bytes = RowBytes(shape_, header.num_pairs);
  char* outputs = peer.outputs.Resize(answer.num_bytes);
  experts_->Run(header.layer, serving_,
                reinterpret_cast<const kernels::BFloat16*>(body + PairBytes(header.num_pairs)),
                reinterpret_cast<kernels::BFloat16*>(outputs));
  const iovec range{.iov_base = outputs, .iov_len = answer.num_bytes};
  absl::Status status = Send(owner, answer, {&range, 1});
  counters_.serve_ns.Add(NanosecondsSince(start));
  return status;
}

// ---- Asking other ranks

absl::Status TcpRank::Dispatch(uint64_t step, int layer, int num_rows, const int32_t* expert_ids) {
  const Clock::time_point start = Clock::now();
  if (absl::Status status = state_.CheckDispatch(step, layer, num_rows, expert_ids); !status.ok()) {
    return status;
  }
  if (experts_ == nullptr) return absl::FailedPreconditionError("rows do not travel here");
  router_.Sort(num_rows, expert_ids);
  state_.BeginLayer(step, layer, num_rows, expert_ids);
  num_awaited_ = 0;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    peers_[rank].is_asked = rank != rank_ && !router_.pairs_of(rank).empty();
    if (peers_[rank].is_asked) ++num_awaited_;
  }
  if (shape_.replicated) {
    if (absl::Status status = TakeHeldFrames(); !status.ok()) return state_.Fail(std::move(status));
  } else {
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      if (!peers_[rank].is_asked) continue;
      if (absl::Status status = Ask(rank); !status.ok()) return state_.Fail(std::move(status));
    }
    counters_.dispatch_bytes.Add(RowBytes(shape_, router_.num_rows_sent(rank_)));
  }
  counters_.dispatch_ns.Add(NanosecondsSince(start));
  return absl::OkStatus();
}

absl::Status TcpRank::Ask(int rank) {
  Peer& peer = peers_[rank];
  const absl::Span<const RoutedRow> pairs = router_.pairs_of(rank);
  const StepLayer& at = state_.dispatched();
  FrameHeader header = MakeFrame(FrameType::kDispatch, epoch_, at.step, at.layer);
  header.num_pairs = static_cast<int32_t>(pairs.size());
  const size_t pair_bytes = PairBytes(header.num_pairs);
  peer.pairs.assign(pair_bytes / sizeof(WirePair), {});
  ranges_.Clear();
  ranges_.Add(peer.pairs.data(), pair_bytes);
  const char* rows = rows_.data();
  const size_t row_bytes = RowBytes(shape_, 1);
  for (size_t i = 0; i < pairs.size(); ++i) {
    int32_t& place = frame_row_[pairs[i].x_row];
    if (place < 0) {
      place = header.num_rows++;
      ranges_.Add(rows + row_bytes * pairs[i].x_row, row_bytes);
    }
    peer.pairs[i] = {.expert = pairs[i].expert, .row = place};
  }
  for (const RoutedRow& pair : pairs) frame_row_[pair.x_row] = -1;
  header.num_bytes = pair_bytes + row_bytes * header.num_rows;
  return Send(rank, header, ranges_.ranges());
}

void TcpRank::ListResultRows(int rank) {
  const size_t row_bytes = RowBytes(shape_, 1);
  ranges_.Clear();
  for (const RoutedRow& pair : router_.pairs_of(rank)) {
    ranges_.Add(results_.data() + row_bytes * pair.out_row, row_bytes);
  }
}

absl::Status TcpRank::BeginOutputs(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  if (shape_.replicated || !state_.layer_is_out() || !peer.is_asked ||
      At(header) != state_.dispatched() ||
      header.num_pairs != static_cast<int32_t>(router_.pairs_of(rank).size()) ||
      peer.connection->HasUnsent(FrameType::kDispatch)) {
    return Unexpected(header, "which it was not asked for");
  }
  ListResultRows(rank);
  peer.connection->SetBody(ranges_.ranges());
  return absl::OkStatus();
}

absl::StatusOr<const kernels::BFloat16*> TcpRank::Combine() {
  if (absl::Status status = state_.CheckCombine(); !status.ok()) return status;
  const absl::Span<const RoutedRow> own = router_.pairs_of(rank_);
  const auto all_sent = [this](FrameType type) {
    return std::none_of(peers_.begin(), peers_.end(), [type](const Peer& peer) {
      return peer.connection != nullptr && peer.connection->HasUnsent(type);
    });
  };
  absl::Status status;
  if (!own.empty()) {
    if (!shape_.replicated) {
      status = WaitServing([&] { return all_sent(FrameType::kDispatch); },
                           Clock::now() + kSendPatience, nullptr);
      if (!status.ok() && !absl::IsDeadlineExceeded(status)) return state_.Fail(std::move(status));
    }
    experts_->Run(state_.dispatched().layer, own, rows(), results());
    if (shape_.replicated) {
      status = ShareOwn();
      if (!status.ok()) return state_.Fail(std::move(status));
    }
  }
  // Counted from here: the others had the time that this rank's own rows took, too. Shares are sent
  // from the results, which the caller may have overwritten by its next Dispatch.
  status = WaitServing(
      [&] { return num_awaited_ == 0 && (!shape_.replicated || all_sent(FrameType::kShare)); },
      After(options_.step_deadline), &counters_.combine_wait_ns);
  if (absl::IsDeadlineExceeded(status)) {
    int rank = 0;
    while (!peers_[rank].is_asked &&
           (peers_[rank].connection == nullptr || !peers_[rank].connection->has_unsent())) {
      ++rank;
    }
    status = state_.DeadlineMissed(
        rank, absl::StrCat(shape_.replicated ? "did not reach " : "did not answer ",
                           LayerName(state_.dispatched())));
  }
  if (!status.ok()) return state_.Fail(std::move(status));
  state_.EndLayer();
  counters_.combine_bytes.Add(
      RowBytes(shape_, static_cast<int64_t>(router_.pairs().size() - own.size())));
  return results();
}

// ---- Replicated attention

absl::Status TcpRank::ShareOwn() {
  const StepLayer& at = state_.dispatched();
  FrameHeader header = MakeFrame(FrameType::kShare, epoch_, at.step, at.layer);
  header.digest = state_.digest();
  header.num_pairs = static_cast<int32_t>(router_.pairs_of(rank_).size());
  header.num_bytes = RowBytes(shape_, header.num_pairs);
  ListResultRows(rank_);
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (rank == rank_) continue;
    if (absl::Status status = Send(rank, header, ranges_.ranges()); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TcpRank::BeginShare(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  if (!shape_.replicated) return Unexpected(header, "and rows are not replicated");
  if (At(header) > state_.dispatched()) {
    peer.is_held = true;  // it is ahead of us
    return absl::OkStatus();
  }
  if (!state_.layer_is_out() || At(header) < state_.dispatched()) {
    return Unexpected(header, "which is over");
  }
  if (header.digest != state_.digest()) {
    return absl::InternalError(absl::StrCat("unexpected step: it dispatched other rows than ",
                                            RankName(rank_), " in ", LayerName(At(header))));
  }
  if (!peer.is_asked || header.num_pairs != static_cast<int32_t>(router_.pairs_of(rank).size())) {
    return Unexpected(header, "which it does not have");
  }
  ListResultRows(rank);
  peer.connection->SetBody(ranges_.ranges());
  return absl::OkStatus();
}

absl::Status TcpRank::TakeHeldFrames() {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    Peer& peer = peers_[rank];
    if (!peer.is_held) continue;
    peer.is_held = false;
    if (absl::Status status = BeginShare(rank); !status.ok()) return Blame(rank, status);
    if (peer.is_held) continue;
    if (absl::Status status = Watch(rank, EPOLL_CTL_MOD); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace moe::exchange
