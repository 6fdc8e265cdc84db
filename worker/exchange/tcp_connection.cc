#include "worker/exchange/tcp_connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

size_t TotalBytes(absl::Span<const iovec> ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), size_t{0},
                         [](size_t sum, const iovec& range) { return sum + range.iov_len; });
}

}  // namespace

char* BodyBuffer::Resize(size_t num_bytes) {
  if (num_bytes > capacity_) {
    capacity_ = (num_bytes + kBodyAlignment - 1) / kBodyAlignment * kBodyAlignment;
    memory_.reset();
    memory_.reset(std::aligned_alloc(kBodyAlignment, capacity_));
    if (memory_ == nullptr) std::abort();  // as operator new without exceptions
  }
  return data();
}

void IoList::Add(const void* begin, size_t num_bytes) {
  if (num_bytes == 0) return;
  char* start = static_cast<char*>(const_cast<void*>(begin));
  if (!ranges_.empty()) {
    iovec& last = ranges_.back();
    if (static_cast<char*>(last.iov_base) + last.iov_len == start) {
      last.iov_len += num_bytes;
      return;
    }
  }
  ranges_.push_back({.iov_base = start, .iov_len = num_bytes});
}

// ---- Sending

absl::Status Connection::Queue(const FrameHeader& header, absl::Span<const iovec> body) {
  if (num_queued_ == kMaxQueued) return absl::InternalError("too many frames wait to be sent");
  Outgoing& frame = queue_[(first_ + num_queued_) % kMaxQueued];
  frame.header = header;
  frame.body.assign(body.begin(), body.end());
  frame.num_sent = 0;
  ++num_queued_;
  return absl::OkStatus();
}

bool Connection::HasUnsent(FrameType type) const {
  for (int i = 0; i < num_queued_; ++i) {
    if (queue_[(first_ + i) % kMaxQueued].header.type == type) return true;
  }
  return false;
}

void Connection::AppendUnsent(const Outgoing& frame, std::vector<iovec>* ranges) const {
  size_t skip = frame.num_sent;
  const auto add = [&](void* base, size_t length) {
    const size_t skipped = std::min(skip, length);
    skip -= skipped;
    if (skipped == length || ranges->size() >= IOV_MAX) return;
    ranges->push_back(
        {.iov_base = static_cast<char*>(base) + skipped, .iov_len = length - skipped});
  };
  add(const_cast<FrameHeader*>(&frame.header), sizeof(FrameHeader));
  for (const iovec& range : frame.body) add(range.iov_base, range.iov_len);
}

void Connection::CountSent(size_t num_bytes) {
  while (num_queued_ > 0) {
    Outgoing& frame = queue_[first_];
    const size_t left = sizeof(FrameHeader) + frame.header.num_bytes - frame.num_sent;
    const size_t now = std::min(left, num_bytes);
    frame.num_sent += now;
    num_bytes -= now;
    if (now < left) return;
    first_ = (first_ + 1) % kMaxQueued;
    --num_queued_;
  }
}

absl::StatusOr<bool> Connection::Flush() {
  while (num_queued_ > 0) {
    unsent_.clear();
    for (int i = 0; i < num_queued_; ++i) {
      AppendUnsent(queue_[(first_ + i) % kMaxQueued], &unsent_);
    }
    msghdr message{};
    message.msg_iov = unsent_.data();
    message.msg_iovlen = unsent_.size();
    const ssize_t n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (WouldBlock(errno)) return false;
      return absl::UnavailableError(ErrnoText("the connection broke"));
    }
    const bool whole = static_cast<size_t>(n) == TotalBytes(unsent_);
    CountSent(static_cast<size_t>(n));
    if (!whole) return false;  // the system's buffer is full
  }
  return true;
}

// ---- Receiving

absl::StatusOr<Connection::ReadState> Connection::Read() {
  const auto broken = [](ssize_t n) {
    return n == 0 ? absl::UnavailableError("it closed the connection")
                  : absl::UnavailableError(ErrnoText("the connection broke"));
  };
  if (num_header_bytes_ < sizeof(header_)) {
    const ssize_t n = recv(socket_.get(), reinterpret_cast<char*>(&header_) + num_header_bytes_,
                           sizeof(header_) - num_header_bytes_, MSG_DONTWAIT);
    if (n < 0 && WouldBlock(errno)) return ReadState::kNothing;
    if (n <= 0) return broken(n);
    num_header_bytes_ += static_cast<size_t>(n);
    return num_header_bytes_ < sizeof(header_) ? ReadState::kNothing : ReadState::kHeader;
  }
  if (!has_body_) return ReadState::kHeader;
  if (next_ < body_.size()) {
    msghdr message{};
    message.msg_iov = &body_[next_];
    message.msg_iovlen = std::min<size_t>(body_.size() - next_, IOV_MAX);
    const ssize_t n = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (n < 0 && WouldBlock(errno)) return ReadState::kNothing;
    if (n <= 0) return broken(n);
    auto left = static_cast<size_t>(n);
    while (left > 0) {
      iovec& range = body_[next_];
      const size_t now = std::min(left, range.iov_len);
      range.iov_base = static_cast<char*>(range.iov_base) + now;
      range.iov_len -= now;
      left -= now;
      if (range.iov_len == 0) ++next_;
    }
    if (next_ < body_.size()) return ReadState::kNothing;
  }
  num_header_bytes_ = 0;
  has_body_ = false;
  return ReadState::kFrame;
}

void Connection::SetBody(absl::Span<const iovec> body) {
  body_.assign(body.begin(), body.end());
  next_ = 0;
  has_body_ = true;
}

}  // namespace moe::exchange
