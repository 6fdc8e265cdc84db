// Reaching one rank of the epoch: connecting and the dialling side of the handshake, tried again
// until it works.
//
// Driven by the group's epoll loop; never blocks. Tested by
// tests/worker/exchange/tcp_fault_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_DIALER_H_
#define MOE_WORKER_EXCHANGE_TCP_DIALER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/exchange/clock.h"
#include "worker/exchange/tcp_handshake.h"
#include "worker/exchange/tcp_socket.h"

namespace moe::exchange {

class Dialer {
 public:
  // `handshake` must outlive the dialer. epoll: where its socket is watched, with the rank `to` as
  // data.
  Dialer(std::string address, const Handshake* handshake, uint64_t epoch, int from, int to,
         int epoll)
      : address_(std::move(address)),
        handshake_(handshake),
        epoch_(epoch),
        from_(from),
        to_(to),
        epoll_(epoll) {}

  // When something happened to its socket.
  void OnEvent(Clock::time_point now);
  // When next_time() is over: the first and every further attempt, and the end of a slow one.
  void OnTime(Clock::time_point now);
  Clock::time_point next_time() const { return next_time_; }

  // The other rank has proven itself, and our proof is under way.
  bool connected() const { return state_ == State::kConnected; }
  // REQUIRES: connected(). The socket is still watched for input.
  OwnedFd TakeSocket() { return std::move(socket_); }
  // Why the last attempt failed; empty if none has.
  const std::string& last_error() const { return last_error_; }

 private:
  enum class State { kIdle, kConnecting, kAwaitsChallenge, kConnected };

  absl::Status Begin();
  absl::Status SayHello();
  absl::Status ReadChallenge();
  absl::Status Watch(int operation, uint32_t events);
  void Retry(Clock::time_point now, const absl::Status& why);

  const std::string address_;
  const Handshake* const handshake_;
  const uint64_t epoch_;
  const int from_;
  const int to_;
  const int epoll_;

  State state_ = State::kIdle;
  OwnedFd socket_;
  Clock::time_point next_time_{};  // long ago: at once
  Clock::duration pause_ = Clock::duration::zero();
  HelloMessage hello_;
  ChallengeMessage challenge_;
  size_t num_read_ = 0;
  std::string last_error_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_DIALER_H_
