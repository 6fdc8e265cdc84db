#include "worker/exchange/tcp_dialer.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace moe::exchange {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause(20);
constexpr milliseconds kMaxPause(1000);
// The other side may not have its Join message yet, and keeps us waiting as long (TcpListener).
constexpr milliseconds kAttemptDeadline(5000);

}  // namespace

void Dialer::OnTime(Clock::time_point now) {
  if (connected() || now < next_time_) return;
  if (state_ != State::kIdle) {
    Retry(now, absl::DeadlineExceededError("it did not answer"));
    return;
  }
  next_time_ = now + kAttemptDeadline;
  if (absl::Status status = Begin(); !status.ok()) Retry(now, status);
}

void Dialer::OnEvent(Clock::time_point now) {
  absl::Status status;
  if (state_ == State::kConnecting) {
    status = SayHello();
  } else if (state_ == State::kAwaitsChallenge) {
    status = ReadChallenge();
  }
  if (!status.ok()) Retry(now, status);
}

void Dialer::Retry(Clock::time_point now, const absl::Status& why) {
  last_error_ = std::string(why.message());
  socket_.Reset();
  state_ = State::kIdle;
  pause_ = std::clamp<Clock::duration>(2 * pause_, kFirstPause, kMaxPause);
  next_time_ = now + pause_;
}

absl::Status Dialer::Watch(int operation, uint32_t events) {
  epoll_event event{.events = events, .data = {.u64 = static_cast<uint64_t>(to_)}};
  if (epoll_ctl(epoll_, operation, socket_.get(), &event) == 0) return absl::OkStatus();
  return absl::InternalError(ErrnoText("can't watch a socket"));
}

absl::Status Dialer::Begin() {
  absl::StatusOr<OwnedFd> socket = DialTcp(address_);
  if (!socket.ok()) return socket.status();
  socket_ = *std::move(socket);
  state_ = State::kConnecting;
  return Watch(EPOLL_CTL_ADD, EPOLLOUT);
}

absl::Status Dialer::SayHello() {
  if (absl::Status status = ConnectOutcome(socket_.get()); !status.ok()) return status;
  const absl::StatusOr<Bytes32> nonce = DrawBytes32();
  if (!nonce.ok()) return nonce.status();
  hello_ = MakeHello(epoch_, from_, to_, *nonce);
  // Always fits the empty buffer of a new connection.
  if (send(socket_.get(), &hello_, sizeof(hello_), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(sizeof(hello_))) {
    return absl::UnavailableError(ErrnoText("can't send"));
  }
  num_read_ = 0;
  state_ = State::kAwaitsChallenge;
  return Watch(EPOLL_CTL_MOD, EPOLLIN);
}

absl::Status Dialer::ReadChallenge() {
  const ssize_t n = recv(socket_.get(), reinterpret_cast<char*>(&challenge_) + num_read_,
                         sizeof(challenge_) - num_read_, 0);
  if (n == 0) return absl::UnavailableError("it closed the connection");
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return absl::OkStatus();
    return absl::UnavailableError(ErrnoText("can't receive"));
  }
  num_read_ += static_cast<size_t>(n);
  if (num_read_ < sizeof(challenge_)) return absl::OkStatus();
  if (!handshake_->IsProven(hello_, challenge_)) {
    return absl::UnauthenticatedError("it does not know the secret of this epoch");
  }
  const ProofMessage proof = handshake_->Prove(hello_, challenge_);
  if (send(socket_.get(), &proof, sizeof(proof), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(sizeof(proof))) {
    return absl::UnavailableError(ErrnoText("can't send"));
  }
  state_ = State::kConnected;
  next_time_ = Clock::time_point::max();
  return absl::OkStatus();
}

}  // namespace moe::exchange
