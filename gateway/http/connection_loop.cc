// See connection_loop.h.
#include "gateway/http/connection_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>

#include "absl/time/clock.h"

namespace moe::gateway {
namespace {

constexpr size_t kReceiveBytes = size_t{64} << 10;
constexpr absl::Duration kTick = absl::Milliseconds(200);

}  // namespace

bool MemoryBudget::Set(size_t* held, size_t bytes) {
  const size_t before = used_.fetch_add(bytes - *held);  // wraps where bytes < *held, as it should
  const size_t after = before + bytes - *held;
  const bool grows = bytes > *held;
  *held = bytes;
  return !grows || after <= max_bytes_;
}

Connection::~Connection() {
  ReleaseMemory();
  close(fd_);
}

std::string Connection::TakeRequest() {
  must_close_ = reader_.must_close();
  return reader_.TakeRequest();
}

ConnectionLoop::ConnectionLoop(int listen_fd, ConnectionLimits limits, Callbacks callbacks)
    : listen_fd_(listen_fd),
      limits_(limits),
      callbacks_(std::move(callbacks)),
      budget_(limits.max_buffered_bytes),
      receive_buffer_(kReceiveBytes) {}

ConnectionLoop::~ConnectionLoop() {
  Stop();
  {
    absl::MutexLock lock(&mutex_);
    returned_.clear();
  }
  for (const int fd : {epoll_fd_, event_fd_, listen_fd_}) {
    if (fd >= 0) {
      close(fd);
    }
  }
}

bool ConnectionLoop::Start() {
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  event_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (epoll_fd_ < 0 || event_fd_ < 0) {
    return false;
  }
  for (const int fd : {listen_fd_, event_fd_}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
      return false;
    }
  }
  thread_ = std::thread([this] { Loop(); });
  return true;
}

void ConnectionLoop::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_fd_, &one, sizeof(one));
    thread_.join();
  }
}

void ConnectionLoop::Return(std::unique_ptr<Connection> connection, bool keep) {
  connection->ReleaseMemory();
  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    num_connections_.fetch_sub(1);
    return;  // destroyed here
  }
  returned_.emplace_back(std::move(connection), keep);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(event_fd_, &one, sizeof(one));
}

void ConnectionLoop::Loop() {
  std::array<epoll_event, 64> events{};
  absl::Time next_check = absl::Now() + kTick;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) {
        break;
      }
    }
    const int num_events = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                                      static_cast<int>(absl::ToInt64Milliseconds(kTick)));
    for (int i = 0; i < num_events; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == listen_fd_) {
        Accept();
      } else if (fd == event_fd_) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t taken = read(event_fd_, &count, sizeof(count));
        TakeReturned();
      } else {
        OnReadable(fd);
      }
    }
    if (const absl::Time now = absl::Now(); now >= next_check) {
      next_check = now + kTick;
      CloseLate();
    }
  }
  num_connections_.fetch_sub(static_cast<int>(waiting_.size()));
  waiting_.clear();
}

void ConnectionLoop::Accept() {
  for (;;) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE) {
        // No descriptor left: an idle client gives up its own. The next round tries again.
        MakeRoom();
      }
      if (errno != EINTR && errno != ECONNABORTED) {
        return;
      }
      continue;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (num_connections_.load() >= limits_.max_connections) {
      MakeRoom();
    }
    auto connection = std::make_unique<Connection>(
        fd, RequestReader(limits_.request, callbacks_.wants_body), budget_);
    if (num_connections_.load() >= limits_.max_connections) {
      continue;  // every connection is being answered; closes this one
    }
    num_connections_.fetch_add(1);
    Watch(std::move(connection), Connection::Phase::kIdle);
  }
}

void ConnectionLoop::MakeRoom() {
  const Connection* oldest = nullptr;
  for (const auto& [fd, connection] : waiting_) {
    if (oldest == nullptr || connection->since_ < oldest->since_) {
      oldest = connection.get();
    }
  }
  if (oldest != nullptr) {
    Unwatch(oldest->fd());
    num_connections_.fetch_sub(1);
  }
}

void ConnectionLoop::TakeReturned() {
  std::vector<std::pair<std::unique_ptr<Connection>, bool>> returned;
  {
    absl::MutexLock lock(&mutex_);
    returned.swap(returned_);
  }
  for (auto& [connection, keep] : returned) {
    if (!keep) {
      shutdown(connection->fd(), SHUT_WR);
      Watch(std::move(connection), Connection::Phase::kLinger);
    } else {
      Handle(std::move(connection));
    }
  }
}

void ConnectionLoop::OnReadable(int fd) {
  const auto found = waiting_.find(fd);
  if (found == waiting_.end()) {
    return;
  }
  Connection& connection = *found->second;
  const ssize_t received = recv(fd, receive_buffer_.data(), receive_buffer_.size(), 0);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (received <= 0) {
    Unwatch(fd);
    num_connections_.fetch_sub(1);
    return;
  }
  if (connection.phase_ == Connection::Phase::kLinger) {
    return;  // thrown away
  }
  connection.reader_.Feed({receive_buffer_.data(), static_cast<size_t>(received)});
  Handle(Unwatch(fd));
}

// Decides what comes next for a connection that nobody watches.
void ConnectionLoop::Handle(std::unique_ptr<Connection> connection) {
  RequestReader& reader = connection->reader_;
  if (reader.TakeContinue()) {
    constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    // A client that does not take 25 bytes does not get them.
    [[maybe_unused]] const ssize_t sent =
        send(connection->fd(), kContinue.data(), kContinue.size(), MSG_NOSIGNAL);
  }
  switch (reader.state()) {
    case RequestReader::State::kRejected:
      Refuse(std::move(connection), reader.status(), std::string(reader.reason()));
      return;
    case RequestReader::State::kComplete:
      if (!callbacks_.serve(connection)) {
        Refuse(std::move(connection), 503, "The server has too many requests. Try again soon.");
      }
      return;
    case RequestReader::State::kHead:
    case RequestReader::State::kBody:
      break;
  }
  if (!budget_.Set(&connection->held_bytes_, reader.buffered_bytes())) {
    Refuse(std::move(connection), 503, "The server has too many requests. Try again soon.");
    return;
  }
  const auto phase = reader.idle()                                   ? Connection::Phase::kIdle
                     : reader.state() == RequestReader::State::kHead ? Connection::Phase::kHead
                                                                     : Connection::Phase::kBody;
  Watch(std::move(connection), phase);
}

void ConnectionLoop::Refuse(std::unique_ptr<Connection> connection, int status,
                            const std::string& reason) {
  const std::string response = callbacks_.error_response(status, reason);
  // Small enough for an empty send buffer. Whoever left no room for it gets a closed socket.
  [[maybe_unused]] const ssize_t sent =
      send(connection->fd(), response.data(), response.size(), MSG_NOSIGNAL);
  connection->ReleaseMemory();
  // Closing with unread bytes would reset the connection and lose the answer on its way.
  shutdown(connection->fd(), SHUT_WR);
  Watch(std::move(connection), Connection::Phase::kLinger);
}

void ConnectionLoop::Watch(std::unique_ptr<Connection> connection, Connection::Phase phase) {
  // A phase's deadline counts from its beginning, however many bytes trickle in.
  if (connection->phase_ != phase || phase == Connection::Phase::kIdle) {
    connection->since_ = absl::Now();
  }
  connection->phase_ = phase;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = connection->fd();
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, connection->fd(), &event) != 0) {
    num_connections_.fetch_sub(1);
    return;  // destroyed here
  }
  const int fd = connection->fd();
  waiting_[fd] = std::move(connection);
}

std::unique_ptr<Connection> ConnectionLoop::Unwatch(int fd) {
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  const auto found = waiting_.find(fd);
  std::unique_ptr<Connection> connection = std::move(found->second);
  waiting_.erase(found);
  return connection;
}

void ConnectionLoop::CloseLate() {
  const absl::Time now = absl::Now();
  std::vector<int> late;
  for (const auto& [fd, connection] : waiting_) {
    absl::Duration limit = limits_.idle_timeout;
    switch (connection->phase_) {
      case Connection::Phase::kIdle:
        break;
      case Connection::Phase::kHead:
        limit = limits_.head_timeout;
        break;
      case Connection::Phase::kBody:
        limit = limits_.body_timeout;
        break;
      case Connection::Phase::kLinger:
        limit = limits_.linger;
        break;
    }
    if (now - connection->since_ >= limit) {
      late.push_back(fd);
    }
  }
  for (const int fd : late) {
    std::unique_ptr<Connection> connection = Unwatch(fd);
    if (connection->phase_ == Connection::Phase::kHead ||
        connection->phase_ == Connection::Phase::kBody) {
      Refuse(std::move(connection), 408, "The request took too long to arrive.");
    } else {
      num_connections_.fetch_sub(1);
    }
  }
}

}  // namespace moe::gateway
