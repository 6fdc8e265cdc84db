#include "worker/exchange/tcp_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

constexpr int kBacklog = 1024;
constexpr int kSocketFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

absl::StatusOr<SocketAddress> ParseAddress(const std::string& address) {
  absl::Status error = absl::InvalidArgumentError(
      absl::StrCat("'", address, "' is not NUMERIC_ADDRESS:PORT, as in 10.1.2.3:7711"));
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return error;
  std::string host = address.substr(0, colon);
  const std::string port = address.substr(colon + 1);
  int number = 0;
  if (!absl::SimpleAtoi(port, &number) || number < 0 || number > 65535) return error;
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ":")) {
    return error;
  }
  if (host.empty()) return error;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return error;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  SocketAddress result;
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.size = found->ai_addrlen;
  return result;
}

bool SetOption(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

}  // namespace

void OwnedFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string ErrnoText(absl::string_view what) {
  return absl::StrCat(what, ": ", std::strerror(errno));
}

absl::StatusOr<OwnedFd> ListenTcp(const std::string& address) {
  absl::StatusOr<SocketAddress> parsed = ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  OwnedFd fd(socket(parsed->storage.ss_family, SOCK_STREAM | kSocketFlags, 0));
  // A new process may take the port while connections of the one before it fade away.
  if (!fd.valid() || !SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1) ||
      bind(fd.get(), parsed->get(), parsed->size) != 0 || listen(fd.get(), kBacklog) != 0) {
    return absl::UnavailableError(ErrnoText(absl::StrCat("can't listen to ", address)));
  }
  return fd;
}

absl::StatusOr<std::string> LocalAddress(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&storage), size, host.data(), host.size(),
                  port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return absl::InternalError(ErrnoText("can't read a socket's address"));
  }
  if (storage.ss_family == AF_INET6) return absl::StrCat("[", host.data(), "]:", port.data());
  return absl::StrCat(host.data(), ":", port.data());
}

absl::StatusOr<OwnedFd> DialTcp(const std::string& address) {
  absl::StatusOr<SocketAddress> parsed = ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  OwnedFd fd(socket(parsed->storage.ss_family, SOCK_STREAM | kSocketFlags, 0));
  if (!fd.valid()) return absl::UnavailableError(ErrnoText("can't make a socket"));
  if (connect(fd.get(), parsed->get(), parsed->size) != 0 && errno != EINPROGRESS) {
    return absl::UnavailableError(ErrnoText("can't connect"));
  }
  return fd;
}

absl::Status ConnectOutcome(int fd) {
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error == 0) return absl::OkStatus();
  errno = error;
  return absl::UnavailableError(ErrnoText("can't connect"));
}

absl::Status SetPeerOptions(int fd, absl::Duration silence) {
  constexpr int kProbes = 3;
  const int64_t milliseconds =
      std::clamp<int64_t>(absl::ToInt64Milliseconds(silence), 1000, 3'600'000);
  const int seconds = static_cast<int>(std::max<int64_t>(1, milliseconds / 1000 / (kProbes + 1)));
  if (SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1) && SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1) &&
      SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds) &&
      SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds) &&
      SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes) &&
      SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(milliseconds))) {
    return absl::OkStatus();
  }
  return absl::InternalError(ErrnoText("can't set a connection's options"));
}

}  // namespace moe::exchange
