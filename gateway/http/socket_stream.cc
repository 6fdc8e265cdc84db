// See socket_stream.h.
#include "gateway/http/socket_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"

namespace moe::gateway {

SocketStream::SocketStream(int fd, std::string request, absl::Duration write_timeout,
                           std::function<void()> on_read)
    : fd_(fd),
      request_(std::move(request)),
      write_timeout_(write_timeout),
      on_read_(std::move(on_read)) {}

// Writes wait for themselves.
bool SocketStream::wait_writable() const { return !failed_; }

bool SocketStream::is_peer_alive() const {
  if (failed_) {
    return false;
  }
  char byte = 0;
  const ssize_t peeked = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return peeked > 0 || (peeked < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
}

ssize_t SocketStream::read(char* data, size_t size) {
  const size_t taken = std::min(size, request_.size() - position_);
  std::memcpy(data, request_.data() + position_, taken);
  position_ += taken;
  if (position_ == request_.size() && on_read_) {
    request_ = std::string();
    position_ = 0;
    std::exchange(on_read_, nullptr)();
  }
  return static_cast<ssize_t>(taken);
}

ssize_t SocketStream::write(const char* data, size_t size) {
  if (failed_) {
    return -1;
  }
  if (status_ == 0) {
    // "HTTP/1.1 200 OK"
    const absl::string_view line(data, size);
    if (line.size() < 12 || !absl::SimpleAtoi(line.substr(9, 3), &status_)) {
      status_ = 500;
    }
  }
  const absl::Time deadline = absl::Now() + write_timeout_;
  size_t written = 0;
  while (written < size) {
    const ssize_t sent = send(fd_, data + written, size - written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      written += static_cast<size_t>(sent);
      continue;
    }
    if (sent < 0 && errno == EINTR) {
      continue;
    }
    const absl::Duration left = deadline - absl::Now();
    if ((sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) || left <= absl::ZeroDuration()) {
      failed_ = true;
      return -1;
    }
    pollfd poll_fd{.fd = fd_, .events = POLLOUT, .revents = 0};
    poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
  }
  return static_cast<ssize_t>(size);
}

void SocketStream::get_remote_ip_and_port(std::string& ip, int& port) const {
  ip.clear();
  port = 0;
}

void SocketStream::get_local_ip_and_port(std::string& ip, int& port) const {
  ip.clear();
  port = 0;
}

}  // namespace moe::gateway
