// Sockets of the Tcp exchange: owning a descriptor, listening, dialling, and the options that all
// connections get.
//
// Addresses are HOST:PORT with a numeric HOST ("10.1.2.3:7711", "[fd00::1]:7711"): a worker knows
// its own, so no name has to be resolved, which could block.
//
// Tested by tests/worker/exchange/tcp_listener_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_SOCKET_H_
#define MOE_WORKER_EXCHANGE_TCP_SOCKET_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace moe::exchange {

// Closes its descriptor.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() { Reset(); }
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Reset();

 private:
  int fd_ = -1;
};

// "WHAT: " and the system's words for errno.
std::string ErrnoText(absl::string_view what);

// A listening socket that blocks nobody. InvalidArgument: no such address; Unavailable: the system
// says no.
absl::StatusOr<OwnedFd> ListenTcp(const std::string& address);

// Where a socket is bound, with its real port.
absl::StatusOr<std::string> LocalAddress(int fd);

// Begins to connect: the socket is writable when that has ended, well or not (see ConnectOutcome).
absl::StatusOr<OwnedFd> DialTcp(const std::string& address);
absl::Status ConnectOutcome(int fd);

// For a connection between ranks: no delay for small frames, and an end to it when the other
// machine is silent for `silence` although it owes an acknowledgement or an answer to keepalive.
absl::Status SetPeerOptions(int fd, absl::Duration silence);

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_SOCKET_H_
