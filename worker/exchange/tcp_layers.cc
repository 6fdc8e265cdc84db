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

uint64_t NanosecondsSince(Clock::time_point start) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

void Add(std::atomic<uint64_t>& counter, uint64_t value) {
  counter.fetch_add(value, std::memory_order_relaxed);
}

// FNV-1a over what a replicated Dispatch is about: ranks that compute the same have the same.
uint64_t DigestOf(uint64_t step, int layer, int num_rows, absl::Span<const int32_t> expert_ids) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3; };
  mix(step);
  mix(static_cast<uint64_t>(layer));
  mix(static_cast<uint64_t>(num_rows));
  for (const int32_t expert : expert_ids) mix(static_cast<uint64_t>(expert));
  return hash;
}

}  // namespace

// ---- Serving other owners

absl::Status TcpRank::BeginDispatch(int owner) {
  Peer& peer = peers_[owner];
  const FrameHeader& header = peer.connection->header();
  if (shape_.replicated || owner >= shape_.num_attention_ranks) {
    return Unexpected(header, "and owns no rows");
  }
  if (peer.connection->HasUnsent(FrameType::kOutputs)) {
    return Unexpected(header, "before it took the answer to the layer before");
  }
  // The leader sends a plan only when all owners have finished the step before, and owners start a
  // step only after its plan. So a rank that has a part in the current plan knows the only step
  // that work can be of; any other rank has heard of this step or will not hear of a lower one.
  const bool knows_step = rank_ == 0 ? has_plan_ : plan_arrived_ || result_due_;
  if ((rank_ == 0 && !has_plan_) || header.step < latest_step_ ||
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
  Add(serve_ns_, NanosecondsSince(start));
  return status;
}

// ---- Asking other ranks

absl::Status TcpRank::CheckDispatch(uint64_t step, int layer, int num_rows,
                                    const int32_t* expert_ids) const {
  if (!is_owner()) {
    return absl::FailedPreconditionError(absl::StrCat(Name(rank_), " owns no rows"));
  }
  if (outstanding_) return absl::FailedPreconditionError("Dispatch before Combine");
  if (num_rows < 1 || num_rows > shape_.max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(num_rows, " rows, not in [1, ", shape_.max_rows, "]"));
  }
  if (layer < 0 || layer >= shape_.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer, " of ", shape_.num_layers, " layers"));
  }
  if (has_dispatched_ && std::pair(step, layer) <= std::pair(dispatch_step_, dispatch_layer_)) {
    return absl::FailedPreconditionError(absl::StrCat("layer ", layer, " of step ", step,
                                                      " after layer ", dispatch_layer_, " of step ",
                                                      dispatch_step_));
  }
  if (shape_.num_ranks > 1 && (!has_plan_ || plan_step_ != step)) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", step, " has no plan: the current plan is of step ", plan_step_));
  }
  for (int i = 0; i < num_rows * shape_.top_k; ++i) {
    if (expert_ids[i] < 0 || expert_ids[i] >= shape_.num_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("expert ", expert_ids[i], " of ", shape_.num_experts, " experts"));
    }
  }
  return absl::OkStatus();
}

absl::Status TcpRank::Dispatch(uint64_t step, int layer, int num_rows, const int32_t* expert_ids) {
  const Clock::time_point start = Clock::now();
  if (absl::Status status = Usable(); !status.ok()) return status;
  if (absl::Status status = CheckDispatch(step, layer, num_rows, expert_ids); !status.ok()) {
    return status;
  }
  router_.Sort(num_rows, expert_ids);
  outstanding_ = true;
  has_dispatched_ = true;
  dispatch_step_ = step;
  dispatch_layer_ = layer;
  num_awaited_ = 0;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    peers_[rank].is_asked = rank != rank_ && !router_.pairs_of(rank).empty();
    if (peers_[rank].is_asked) ++num_awaited_;
  }
  if (shape_.replicated) {
    digest_ =
        DigestOf(step, layer, num_rows, {expert_ids, static_cast<size_t>(num_rows) * shape_.top_k});
    if (absl::Status status = TakeHeldFrames(); !status.ok()) return Fail(std::move(status));
  } else {
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      if (!peers_[rank].is_asked) continue;
      if (absl::Status status = Ask(rank); !status.ok()) return Fail(std::move(status));
    }
    Add(dispatch_bytes_, RowBytes(shape_, router_.num_rows_sent(rank_)));
  }
  Add(dispatch_ns_, NanosecondsSince(start));
  return absl::OkStatus();
}

absl::Status TcpRank::Ask(int rank) {
  Peer& peer = peers_[rank];
  const absl::Span<const RoutedRow> pairs = router_.pairs_of(rank);
  FrameHeader header = MakeFrame(FrameType::kDispatch, epoch_, dispatch_step_, dispatch_layer_);
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
  if (shape_.replicated || !outstanding_ || !peer.is_asked || header.step != dispatch_step_ ||
      header.layer != dispatch_layer_ ||
      header.num_pairs != static_cast<int32_t>(router_.pairs_of(rank).size()) ||
      peer.connection->HasUnsent(FrameType::kDispatch)) {
    return Unexpected(header, "which it was not asked for");
  }
  ListResultRows(rank);
  peer.connection->SetBody(ranges_.ranges());
  return absl::OkStatus();
}

absl::StatusOr<const kernels::BFloat16*> TcpRank::Combine() {
  if (absl::Status status = Usable(); !status.ok()) return status;
  if (!outstanding_) return absl::FailedPreconditionError("Combine without Dispatch");
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
      if (!status.ok() && !absl::IsDeadlineExceeded(status)) return Fail(std::move(status));
    }
    experts_->Run(dispatch_layer_, own, rows(), results());
    if (shape_.replicated) {
      status = ShareOwn();
      if (!status.ok()) return Fail(std::move(status));
    }
  }
  // Counted from here: the others had the time that this rank's own rows took, too. Shares are sent
  // from the results, which the caller may have overwritten by its next Dispatch.
  status = WaitServing(
      [&] { return num_awaited_ == 0 && (!shape_.replicated || all_sent(FrameType::kShare)); },
      After(options_.step_deadline), &combine_wait_ns_);
  if (absl::IsDeadlineExceeded(status)) {
    int rank = 0;
    while (!peers_[rank].is_asked &&
           (peers_[rank].connection == nullptr || !peers_[rank].connection->has_unsent())) {
      ++rank;
    }
    suspect_.store(rank, std::memory_order_relaxed);
    status = absl::DeadlineExceededError(absl::StrCat(
        Name(rank), shape_.replicated ? " did not reach layer " : " did not answer layer ",
        dispatch_layer_, " of step ", dispatch_step_));
  }
  if (!status.ok()) return Fail(std::move(status));
  outstanding_ = false;
  Add(combine_bytes_, RowBytes(shape_, static_cast<int64_t>(router_.pairs().size() - own.size())));
  return results();
}

// ---- Replicated attention

absl::Status TcpRank::ShareOwn() {
  FrameHeader header = MakeFrame(FrameType::kShare, epoch_, dispatch_step_, dispatch_layer_);
  header.digest = digest_;
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
  const std::pair<uint64_t, int> theirs(header.step, header.layer);
  const std::pair<uint64_t, int> ours(dispatch_step_, dispatch_layer_);
  if (!has_dispatched_ || theirs > ours) {
    peer.is_held = true;  // it is ahead of us
    return absl::OkStatus();
  }
  if (!outstanding_ || theirs < ours) return Unexpected(header, "which is over");
  if (header.digest != digest_) {
    return absl::InternalError(absl::StrCat("unexpected step: it dispatched other rows than ",
                                            Name(rank_), " in layer ", header.layer, " of step ",
                                            header.step));
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
