#include "worker/exchange/tcp_listener.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace moe::exchange {
namespace {

constexpr uint64_t kListenerNumber = 0;
constexpr uint64_t kWakeNumber = 1;
constexpr int kMaxEvents = 64;
// How long to leave connections in the kernel's queue when the process has no descriptor for them.
constexpr std::chrono::milliseconds kAcceptPause(100);

void Signal(int event_fd) {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then it is readable.
  static_cast<void>(!write(event_fd, &one, sizeof(one)));
}

void Drain(int event_fd) {
  uint64_t count = 0;
  static_cast<void>(!read(event_fd, &count, sizeof(count)));
}

// Reads the rest of a message; false when the other end is gone. `*num_read` says how far it is.
bool ReadSome(int fd, void* message, size_t size, size_t* num_read) {
  const ssize_t n = recv(fd, static_cast<char*>(message) + *num_read, size - *num_read, 0);
  if (n > 0) {
    *num_read += static_cast<size_t>(n);
    return true;
  }
  return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

}  // namespace

// ---- PeerInbox

absl::StatusOr<std::shared_ptr<PeerInbox>> PeerInbox::Create() {
  OwnedFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return absl::ResourceExhaustedError(ErrnoText("can't make an eventfd"));
  return std::shared_ptr<PeerInbox>(new PeerInbox(std::move(event)));
}

void PeerInbox::Push(Arrival arrival) {
  {
    const absl::MutexLock lock(&mutex_);
    arrivals_.push_back(std::move(arrival));
  }
  Wake();
}

std::vector<PeerInbox::Arrival> PeerInbox::TakeAll() {
  Drain(event_.get());
  const absl::MutexLock lock(&mutex_);
  return std::exchange(arrivals_, {});
}

void PeerInbox::Wake() const { Signal(event_.get()); }

// ---- TcpListener

absl::StatusOr<std::unique_ptr<TcpListener>> TcpListener::Start(const std::string& address,
                                                                const Limits& limits) {
  absl::StatusOr<OwnedFd> listener = ListenTcp(address);
  if (!listener.ok()) return listener.status();
  absl::StatusOr<std::string> bound = LocalAddress(listener->get());
  if (!bound.ok()) return bound.status();
  OwnedFd epoll(epoll_create1(EPOLL_CLOEXEC));
  OwnedFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll.valid() || !wake.valid()) {
    return absl::ResourceExhaustedError(ErrnoText("can't make an epoll"));
  }
  epoll_event listen_event{.events = EPOLLIN, .data = {.u64 = kListenerNumber}};
  epoll_event wake_event{.events = EPOLLIN, .data = {.u64 = kWakeNumber}};
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, listener->get(), &listen_event) != 0 ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &wake_event) != 0) {
    return absl::ResourceExhaustedError(ErrnoText("can't watch a socket"));
  }
  return std::unique_ptr<TcpListener>(new TcpListener(*std::move(listener), std::move(epoll),
                                                      std::move(wake), *std::move(bound), limits));
}

TcpListener::TcpListener(OwnedFd listener, OwnedFd epoll, OwnedFd wake, std::string address,
                         const Limits& limits)
    : listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      address_(std::move(address)),
      limits_(limits),
      thread_([this] { Run(); }) {}

TcpListener::~TcpListener() {
  stop_.store(true);
  Signal(wake_.get());
  thread_.join();
}

void TcpListener::Admit(Admission admission) {
  const absl::MutexLock lock(&mutex_);
  lowest_epoch_ = admission.epoch;
  admission_ = std::move(admission);
  // The thread looks at those who wait.
  Signal(wake_.get());
}

void TcpListener::Close(uint64_t epoch) {
  const absl::MutexLock lock(&mutex_);
  if (!admission_.has_value() || admission_->epoch != epoch) return;
  admission_.reset();
  lowest_epoch_ = epoch + 1;
  Signal(wake_.get());
}

void TcpListener::Run() {
  std::array<epoll_event, kMaxEvents> events;
  while (!stop_.load()) {
    const int num_events =
        epoll_wait(epoll_.get(), events.data(), kMaxEvents, MillisecondsToWait());
    const absl::MutexLock lock(&mutex_);
    for (int i = 0; i < num_events; ++i) {
      const uint64_t number = events[i].data.u64;
      if (number == kListenerNumber) {
        AcceptAll();
      } else if (number == kWakeNumber) {
        Drain(wake_.get());
        std::vector<uint64_t> waiting;
        for (const auto& [other, stranger] : strangers_) {
          if (stranger.state == Stranger::State::kWaitsForEpoch) waiting.push_back(other);
        }
        for (const uint64_t other : waiting) Advance(other);
      } else {
        Advance(number);
      }
    }
    Expire(Clock::now());
  }
}

int TcpListener::MillisecondsToWait() {
  const absl::MutexLock lock(&mutex_);
  Clock::time_point next = Clock::time_point::max();
  // All have the same time, so the oldest is the first whose time is over.
  if (!strangers_.empty()) next = strangers_.begin()->second.deadline;
  if (paused_until_.has_value()) next = std::min(next, *paused_until_);
  if (next == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

void TcpListener::Expire(Clock::time_point now) {
  while (!strangers_.empty() && strangers_.begin()->second.deadline <= now) {
    Discard(strangers_.begin()->first);
  }
  if (paused_until_.has_value() && *paused_until_ <= now) ResumeAccepting();
}

void TcpListener::Watch(uint64_t number, const Stranger& stranger, int operation) {
  // One that waits has nothing more to say; only its end is of interest, so that what it sends all
  // the same does not keep this thread busy.
  const bool waits = stranger.state == Stranger::State::kWaitsForEpoch;
  epoll_event event{.events = waits ? uint32_t{EPOLLRDHUP} : uint32_t{EPOLLIN},
                    .data = {.u64 = number}};
  // A socket that can't be watched is closed when its time is over.
  static_cast<void>(epoll_ctl(epoll_.get(), operation, stranger.socket.get(), &event));
}

// ---- Coming and going

void TcpListener::AcceptAll() {
  for (int i = 0; i < kMaxEvents; ++i) {
    OwnedFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      const bool exhausted =
          errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      // The descriptor of a stranger may be enough. If not, let others give theirs back.
      if (exhausted && !EvictOne()) PauseAccepting();
      return;
    }
    const size_t num_awaited = admission_.has_value() ? std::count(admission_->awaited.begin(),
                                                                   admission_->awaited.end(), true)
                                                      : 0;
    if (strangers_.size() >= limits_.max_pending + num_awaited) EvictOne();
    const uint64_t number = next_number_++;
    Stranger& stranger = strangers_[number];
    stranger.socket = std::move(socket);
    stranger.deadline = Clock::now() + absl::ToChronoNanoseconds(limits_.handshake_deadline);
    Watch(number, stranger, EPOLL_CTL_ADD);
  }
}

void TcpListener::PauseAccepting() {
  epoll_event event{.events = 0, .data = {.u64 = kListenerNumber}};
  static_cast<void>(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_.get(), &event));
  paused_until_ = Clock::now() + kAcceptPause;
}

void TcpListener::ResumeAccepting() {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kListenerNumber}};
  static_cast<void>(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listener_.get(), &event));
  paused_until_.reset();
}

bool TcpListener::EvictOne() {
  if (strangers_.empty()) return false;
  auto victim = std::find_if(strangers_.begin(), strangers_.end(), [](const auto& entry) {
    return entry.second.state == Stranger::State::kSaysHello;
  });
  if (victim == strangers_.end()) victim = strangers_.begin();
  Discard(victim->first);
  return true;
}

void TcpListener::Discard(uint64_t number) {
  num_discarded_.fetch_add(1, std::memory_order_relaxed);
  strangers_.erase(number);  // closing takes the socket out of the epoll
}

// ---- The handshake

void TcpListener::Advance(uint64_t number) {
  const auto it = strangers_.find(number);
  if (it == strangers_.end()) return;  // closed since the event
  if (!Continue(number, it->second)) Discard(number);
}

bool TcpListener::Continue(uint64_t number, Stranger& stranger) {
  if (stranger.state == Stranger::State::kSaysHello) {
    if (!ReadSome(stranger.socket.get(), &stranger.hello, sizeof(stranger.hello),
                  &stranger.num_read)) {
      return false;
    }
    if (stranger.num_read < sizeof(stranger.hello)) return true;
    if (!IsHello(stranger.hello)) return false;
    stranger.state = Stranger::State::kWaitsForEpoch;
    Watch(number, stranger, EPOLL_CTL_MOD);
  }
  if (stranger.state == Stranger::State::kWaitsForEpoch) {
    char byte = 0;
    const ssize_t n = recv(stranger.socket.get(), &byte, 1, MSG_PEEK);
    if (n >= 0 || errno != EAGAIN) return false;  // it talks, or is gone
    if (stranger.hello.epoch < lowest_epoch_) return false;
    if (!admission_.has_value() || stranger.hello.epoch != admission_->epoch) return true;
    if (!MayEnter(stranger.hello) || !SendChallenge(stranger)) return false;
    stranger.state = Stranger::State::kProves;
    stranger.num_read = 0;
    Watch(number, stranger, EPOLL_CTL_MOD);
    return true;
  }
  // No more than the proof is read: what follows it is for the group.
  if (!ReadSome(stranger.socket.get(), &stranger.proof, sizeof(stranger.proof),
                &stranger.num_read)) {
    return false;
  }
  if (stranger.num_read < sizeof(stranger.proof)) return true;
  if (!admission_.has_value() || stranger.hello.epoch != admission_->epoch ||
      !MayEnter(stranger.hello) ||
      !admission_->handshake.IsProven(stranger.hello, stranger.nonce, stranger.proof)) {
    return false;
  }
  HandOver(number, stranger);
  return true;
}

bool TcpListener::MayEnter(const HelloMessage& hello) const {
  return hello.to == admission_->rank && hello.from >= 0 &&
         hello.from < static_cast<int>(admission_->awaited.size()) &&
         admission_->awaited[hello.from];
}

bool TcpListener::SendChallenge(Stranger& stranger) {
  const absl::StatusOr<Bytes32> nonce = DrawBytes32();
  if (!nonce.ok()) return false;
  stranger.nonce = *nonce;
  const ChallengeMessage challenge = admission_->handshake.Challenge(stranger.hello, *nonce);
  // Always fits the empty buffer of a new connection.
  return send(stranger.socket.get(), &challenge, sizeof(challenge), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(sizeof(challenge));
}

void TcpListener::HandOver(uint64_t number, Stranger& stranger) {
  static_cast<void>(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, stranger.socket.get(), nullptr));
  const int rank = stranger.hello.from;
  admission_->awaited[rank] = false;
  PeerInbox& inbox = *admission_->inbox;
  OwnedFd socket = std::move(stranger.socket);
  strangers_.erase(number);
  inbox.Push({.socket = std::move(socket), .rank = rank});
}

}  // namespace moe::exchange
