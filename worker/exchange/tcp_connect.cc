// How the ranks of a Tcp group meet.
//
// Every connection carries a canary row from each owner at its ends and the row's echo. A rank
// whose connections are all good tells rank 0, and when all have, rank 0 tells them to start: so
// Connect returns nowhere before every rank is here. A rank that owns no rows is connected with
// owners only and can't tell which other rank is missing; rank 0 can, and says it.
//
// Tested by tests/worker/exchange/tcp_fault_test.cc and what tcp.h names.
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/tcp_group.h"

namespace moe::exchange {
namespace {

// How much longer than rank 0 the others wait for it to say who is missing.
constexpr std::chrono::seconds kVerdictPatience(2);

// What a canary row holds, and what comes back: both depend on the rank.
kernels::BFloat16 CanaryValue(int owner, int i) {
  return {static_cast<uint16_t>(0x3c00 + owner * 251 + i)};
}
kernels::BFloat16 EchoValue(kernels::BFloat16 value, int rank) {
  return {static_cast<uint16_t>(value.bits ^ (0xa5a5 + rank))};
}

}  // namespace

bool TcpRank::NeedsConnection(int rank) const {
  if (rank == rank_) return false;
  return shape_.replicated || std::min(rank, rank_) < shape_.num_attention_ranks;
}

absl::Status TcpRank::Connect() {
  if (absl::Status status = state_.BeginConnect(); !status.ok()) return status;
  const Clock::time_point deadline = After(options_.join_deadline);
  for (int i = 0; i < shape_.hidden; ++i) canary_row_.push_back(CanaryValue(rank_, i));
  std::vector<bool> awaited(shape_.num_ranks);
  for (int rank = 0; rank < rank_; ++rank) awaited[rank] = NeedsConnection(rank);
  options_.listener->Admit({.epoch = epoch_,
                            .rank = rank_,
                            .handshake = handshake_,
                            .awaited = std::move(awaited),
                            .inbox = inbox_});
  for (int rank = rank_ + 1; rank < shape_.num_ranks; ++rank) {
    if (!NeedsConnection(rank)) continue;
    peers_[rank].dialer = std::make_unique<Dialer>(options_.addresses[rank], &handshake_, epoch_,
                                                   rank_, rank, epoll_.get());
  }
  absl::Status status =
      WaitServing([this] { return OwnPartDone() || missing_ >= 0; }, deadline, nullptr);
  if (absl::IsDeadlineExceeded(status)) status = NameMissing();
  if (status.ok() && missing_ < 0) status = AwaitOthers(deadline);
  if (status.ok() && missing_ >= 0) {
    status = state_.DeadlineMissed(missing_, "did not join");
  }
  options_.listener->Close(epoch_);
  if (!status.ok()) return state_.Fail(std::move(status));
  state_.SetReady();
  return absl::OkStatus();
}

absl::Status TcpRank::AwaitOthers(Clock::time_point deadline) {
  said_ready_ = true;
  if (rank_ != 0) {
    absl::Status status = Send(0, MakeFrame(FrameType::kReady, epoch_), {});
    if (!status.ok()) return status;
    const Clock::time_point verdict =
        deadline == Clock::time_point::max() ? deadline : deadline + kVerdictPatience;
    status = WaitServing([this] { return may_start_ || missing_ >= 0; }, verdict, nullptr);
    if (!absl::IsDeadlineExceeded(status)) return status;
    return Blame(0, absl::DeadlineExceededError("it did not start the epoch"));
  }
  absl::Status status = WaitServing([this] { return FirstNotReady() < 0; }, deadline, nullptr);
  if (absl::IsDeadlineExceeded(status)) {
    const int rank = FirstNotReady();
    TellMissing(rank);
    return Blame(rank, absl::DeadlineExceededError("it did not finish the canary exchange"));
  }
  for (int rank = 1; status.ok() && rank < shape_.num_ranks; ++rank) {
    status = Send(rank, MakeFrame(FrameType::kStart, epoch_), {});
  }
  return status;
}

int TcpRank::FirstNotReady() const {
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    if (!peers_[rank].ready) return rank;
  }
  return -1;
}

bool TcpRank::OwnPartDone() const {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (!NeedsConnection(rank)) continue;
    if (peers_[rank].connection == nullptr || (state_.is_owner() && !peers_[rank].echoed)) {
      return false;
    }
  }
  return true;
}

absl::Status TcpRank::NameMissing() {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    const Peer& peer = peers_[rank];
    if (!NeedsConnection(rank)) continue;
    std::string what;
    if (peer.connection == nullptr) {
      what = "did not join";
      if (peer.dialer != nullptr && !peer.dialer->last_error().empty()) {
        absl::StrAppend(&what, " (last attempt: ", peer.dialer->last_error(), ")");
      }
    } else if (state_.is_owner() && !peer.echoed) {
      what = "did not answer the canary";
    } else {
      continue;
    }
    if (rank_ == 0) TellMissing(rank);
    return state_.DeadlineMissed(rank, what);
  }
  return absl::DeadlineExceededError("a rank did not join");
}

void TcpRank::TellMissing(int missing) {
  FrameHeader header = MakeFrame(FrameType::kMissing, epoch_);
  header.num_rows = missing;
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    // A rank that can't be told finds out by its own deadline.
    if (peers_[rank].connection != nullptr) static_cast<void>(Send(rank, header, {}));
  }
}

// ---- Connections

absl::Status TcpRank::TakeArrivals() {
  for (PeerInbox::Arrival& arrival : inbox_->TakeAll()) {
    if (!state_.is_connecting() || peers_[arrival.rank].connection != nullptr) continue;
    absl::Status status =
        AdoptConnection(arrival.rank, std::move(arrival.socket), /*is_watched=*/false);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TcpRank::TendDialers(Clock::time_point now) {
  for (int rank = rank_ + 1; rank < shape_.num_ranks; ++rank) {
    Peer& peer = peers_[rank];
    if (peer.dialer == nullptr) continue;
    if (peer.dialer->next_time() <= now) peer.dialer->OnTime(now);
    if (!peer.dialer->connected()) continue;
    OwnedFd socket = peer.dialer->TakeSocket();
    peer.dialer.reset();
    absl::Status status = AdoptConnection(rank, std::move(socket), /*is_watched=*/true);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

Clock::time_point TcpRank::NextDial() const {
  Clock::time_point next = Clock::time_point::max();
  for (const Peer& peer : peers_) {
    if (peer.dialer != nullptr) next = std::min(next, peer.dialer->next_time());
  }
  return next;
}

absl::Status TcpRank::AdoptConnection(int rank, OwnedFd socket, bool is_watched) {
  // The step deadline names the rank first, where it only is slow.
  absl::Status status = SetPeerOptions(socket.get(), 2 * options_.step_deadline);
  if (!status.ok()) return status;
  peers_[rank].connection = std::make_unique<Connection>(std::move(socket));
  status = Watch(rank, is_watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD);
  if (!status.ok() || !state_.is_owner()) return status;
  FrameHeader header = MakeFrame(FrameType::kCanary, epoch_);
  header.num_bytes = RowBytes(shape_, 1);
  const iovec body{.iov_base = canary_row_.data(), .iov_len = header.num_bytes};
  return Send(rank, header, {&body, 1});
}

// ---- Frames

absl::Status TcpRank::BeginJoinFrame(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  const auto refuse = [&] {
    return absl::InternalError(
        absl::StrCat("unexpected step: a frame of type ", static_cast<uint32_t>(header.type),
                     state_.is_ready() ? " after" : " while", " ranks join"));
  };
  if (!state_.is_connecting()) return refuse();
  char* into = nullptr;
  switch (header.type) {
    case FrameType::kCanary:
      if (peer.connection->HasUnsent(FrameType::kEcho)) return refuse();
      into = peer.canary.Resize(header.num_bytes);
      break;
    case FrameType::kEcho:
      if (!state_.is_owner() || peer.echoed) return refuse();
      into = peer.dispatch.Resize(header.num_bytes);
      break;
    case FrameType::kReady:
      if (rank_ != 0 || peer.ready) return refuse();
      break;
    default:  // kStart, kMissing
      if (rank != 0) return refuse();
      break;
  }
  const iovec body{.iov_base = into, .iov_len = header.num_bytes};
  peer.connection->SetBody({&body, into != nullptr ? size_t{1} : size_t{0}});
  return absl::OkStatus();
}

absl::Status TcpRank::EndJoinFrame(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  switch (header.type) {
    case FrameType::kCanary: {
      auto* row = reinterpret_cast<kernels::BFloat16*>(peer.canary.data());
      for (int i = 0; i < shape_.hidden; ++i) row[i] = EchoValue(row[i], rank_);
      FrameHeader echo = MakeFrame(FrameType::kEcho, epoch_);
      echo.num_bytes = header.num_bytes;
      const iovec body{.iov_base = row, .iov_len = echo.num_bytes};
      return Send(rank, echo, {&body, 1});
    }
    case FrameType::kEcho: {
      const auto* row = reinterpret_cast<const kernels::BFloat16*>(peer.dispatch.data());
      for (int i = 0; i < shape_.hidden; ++i) {
        if (row[i].bits != EchoValue(canary_row_[i], rank).bits) {
          return Blame(rank, absl::InternalError("the canary came back with wrong bits"));
        }
      }
      peer.echoed = true;
      return absl::OkStatus();
    }
    case FrameType::kReady:
      peer.ready = true;
      return absl::OkStatus();
    case FrameType::kStart:
      may_start_ = true;
      return absl::OkStatus();
    default:
      missing_ = header.num_rows;
      return absl::OkStatus();
  }
}

}  // namespace moe::exchange
