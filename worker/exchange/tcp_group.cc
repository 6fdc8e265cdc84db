// Waiting, and frames in and out. Layers are in tcp_layers.cc, plans and results in tcp.cc, joining
// in tcp_connect.cc.
#include "worker/exchange/tcp_group.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

constexpr int kMaxEvents = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<TcpGroup>> TcpRank::Make(const GroupShape& shape, uint64_t epoch,
                                                        int rank, const Bytes32& secret,
                                                        std::string bootstrap,
                                                        LocalExperts* experts,
                                                        const TcpOptions& options) {
  absl::StatusOr<std::shared_ptr<PeerInbox>> inbox = PeerInbox::Create();
  if (!inbox.ok()) return inbox.status();
  OwnedFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN, .data = {.u64 = static_cast<uint64_t>(shape.num_ranks)}};
  if (!epoll.valid() || epoll_ctl(epoll.get(), EPOLL_CTL_ADD, (*inbox)->event_fd(), &event) != 0) {
    return absl::ResourceExhaustedError(ErrnoText("can't make an epoll"));
  }
  return std::unique_ptr<TcpGroup>(new TcpRank(shape, epoch, rank, secret, std::move(bootstrap),
                                               experts, options, *std::move(inbox),
                                               std::move(epoll)));
}

TcpRank::TcpRank(const GroupShape& shape, uint64_t epoch, int rank, const Bytes32& secret,
                 std::string bootstrap, LocalExperts* experts, const TcpOptions& options,
                 std::shared_ptr<PeerInbox> inbox, OwnedFd epoll)
    : shape_(shape),
      epoch_(epoch),
      rank_(rank),
      bootstrap_(std::move(bootstrap)),
      experts_(experts),
      options_(options),
      handshake_(secret, shape),
      inbox_(std::move(inbox)),
      epoll_(std::move(epoll)),
      state_(shape_, rank, /*plans_ahead=*/experts == nullptr && !shape.replicated),
      peers_(shape.num_ranks),
      router_(shape) {
  if (!state_.is_owner()) return;
  rows_.Resize(RowBytes(shape, shape.max_rows));
  results_.Resize(RowBytes(shape, int64_t{shape.max_rows} * shape.top_k));
  frame_row_.assign(shape.max_rows, -1);
}

TcpRank::~TcpRank() { options_.listener->Close(epoch_); }

kernels::BFloat16* TcpRank::rows() { return reinterpret_cast<kernels::BFloat16*>(rows_.data()); }

// ---- Waiting

absl::Status TcpRank::Blame(int rank, const absl::Status& status) {
  state_.Suspect(rank);
  return {status.code(), absl::StrCat(RankName(rank), ": ", status.message())};
}

void TcpRank::Abort(std::string_view reason) {
  state_.Abort(reason);
  inbox_->Wake();
}

absl::Status TcpRank::WaitServing(absl::FunctionRef<bool()> done, Clock::time_point deadline,
                                  Counter* asleep_ns) {
  while (true) {
    if (state_.aborted()) return state_.AbortedStatus();
    if (done()) return absl::OkStatus();
    if (Clock::now() >= deadline) return absl::DeadlineExceededError("");
    if (absl::Status status = HandleEvents(deadline, asleep_ns); !status.ok()) return status;
  }
}

absl::Status TcpRank::HandleEvents(Clock::time_point wake_at, Counter* asleep_ns) {
  if (state_.is_connecting()) wake_at = std::min(wake_at, NextDial());
  const Clock::time_point before = Clock::now();
  int timeout_ms = -1;
  if (wake_at != Clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(wake_at - before).count();
    timeout_ms = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
  }
  std::array<epoll_event, kMaxEvents> events;
  const int num_events = epoll_wait(epoll_.get(), events.data(), kMaxEvents, timeout_ms);
  if (num_events < 0 && errno != EINTR) {
    return absl::InternalError(ErrnoText("can't wait for the other ranks"));
  }
  if (asleep_ns != nullptr) {
    asleep_ns->Add(NanosecondsSince(before));
  }
  for (int i = 0; i < num_events; ++i) {
    const auto rank = static_cast<int>(events[i].data.u64);
    absl::Status status =
        rank == shape_.num_ranks ? TakeArrivals() : HandlePeerEvent(rank, events[i].events);
    if (!status.ok()) return status;
  }
  return state_.is_connecting() ? TendDialers(Clock::now()) : absl::OkStatus();
}

absl::Status TcpRank::HandlePeerEvent(int rank, uint32_t events) {
  Peer& peer = peers_[rank];
  if (peer.connection == nullptr) {
    if (peer.dialer != nullptr) peer.dialer->OnEvent(Clock::now());
    return absl::OkStatus();  // TendDialers goes on
  }
  if ((events & EPOLLOUT) != 0) {
    if (absl::Status status = Flush(rank); !status.ok()) return status;
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return absl::OkStatus();
  if (peer.is_held) return Blame(rank, absl::UnavailableError("the connection broke"));
  return Receive(rank);
}

absl::Status TcpRank::Watch(int rank, int operation) {
  const Peer& peer = peers_[rank];
  epoll_event event{.events = (peer.is_held ? 0u : uint32_t{EPOLLIN}) |
                              (peer.watches_output ? uint32_t{EPOLLOUT} : 0u),
                    .data = {.u64 = static_cast<uint64_t>(rank)}};
  if (epoll_ctl(epoll_.get(), operation, peer.connection->fd(), &event) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(ErrnoText("can't watch a connection"));
}

// ---- Frames

absl::Status TcpRank::Send(int rank, const FrameHeader& header, absl::Span<const iovec> body) {
  if (absl::Status status = peers_[rank].connection->Queue(header, body); !status.ok()) {
    return Blame(rank, status);
  }
  return Flush(rank);
}

absl::Status TcpRank::Flush(int rank) {
  Peer& peer = peers_[rank];
  const absl::StatusOr<bool> all_sent = peer.connection->Flush();
  if (!all_sent.ok()) return Blame(rank, all_sent.status());
  if (peer.watches_output == !*all_sent) return absl::OkStatus();
  peer.watches_output = !*all_sent;
  return Watch(rank, EPOLL_CTL_MOD);
}

absl::Status TcpRank::Receive(int rank) {
  Peer& peer = peers_[rank];
  absl::StatusOr<Connection::ReadState> state = peer.connection->Read();
  if (state.ok() && *state == Connection::ReadState::kHeader) {
    absl::Status status = CheckFrame(shape_, epoch_, peer.connection->header());
    if (status.ok() && peer.connection->header().type == FrameType::kLastWords) {
      return HearLastWords(rank);
    }
    if (status.ok()) status = BeginFrame(rank);
    if (!status.ok()) return Blame(rank, status);
    if (peer.is_held) return Watch(rank, EPOLL_CTL_MOD);
    state = peer.connection->Read();
  }
  if (!state.ok()) return Blame(rank, state.status());
  return *state == Connection::ReadState::kFrame ? EndFrame(rank) : absl::OkStatus();
}

absl::Status TcpRank::Unexpected(const FrameHeader& header, absl::string_view why) const {
  return absl::InternalError(absl::StrCat("unexpected step: it sent a frame of type ",
                                          static_cast<uint32_t>(header.type), " for layer ",
                                          header.layer, " of step ", header.step, ", ", why));
}

absl::Status TcpRank::BeginFrame(int rank) {
  const FrameHeader& header = peers_[rank].connection->header();
  switch (header.type) {
    case FrameType::kPlan:
    case FrameType::kDispatch:
    case FrameType::kShare:
      // Rank 0 may have started the others already, and its word to us is still under way.
      if (!state_.is_ready() && !said_ready_) return Unexpected(header, "while ranks join");
      break;
    case FrameType::kResult:
    case FrameType::kOutputs:
      if (!state_.is_ready()) return Unexpected(header, "while ranks join");
      break;
    default:
      return BeginJoinFrame(rank);
  }
  switch (header.type) {
    case FrameType::kPlan:
      return rank == 0 ? BeginPlan() : Unexpected(header, "and it does not lead");
    case FrameType::kResult:
      return BeginResult(rank);
    case FrameType::kDispatch:
      return BeginDispatch(rank);
    case FrameType::kOutputs:
      return BeginOutputs(rank);
    default:
      return BeginShare(rank);
  }
}

absl::Status TcpRank::EndFrame(int rank) {
  Peer& peer = peers_[rank];
  const FrameHeader& header = peer.connection->header();
  switch (header.type) {
    case FrameType::kPlan:
      plan_arrived_ = true;
      latest_step_ = header.step;
      return absl::OkStatus();
    case FrameType::kResult:
      ResultOf(rank, header.step).has_come = true;
      return absl::OkStatus();
    case FrameType::kDispatch:
      return Serve(rank);
    case FrameType::kOutputs:
    case FrameType::kShare:
      peer.is_asked = false;
      --num_awaited_;
      return absl::OkStatus();
    default:
      return EndJoinFrame(rank);
  }
}

}  // namespace moe::exchange
