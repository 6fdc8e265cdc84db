// The door of the Tcp exchange: one listening socket per worker process, for all its epochs.
//
// A connection is a stranger until it has proven that it holds the secret of the epoch that this
// rank is joining; only then the group hears of it. Until then it costs at most one descriptor and
// a few hundred bytes, for a bounded time, and there are at most so many: garbage, half-open and
// slow connections are closed here and never disturb a join. A rank that is early, because its own
// Join message arrived first, waits here until this rank joins too or its time is over (it dials
// again).
//
// Threads: the class is thread-safe. One thread of its own accepts and shakes hands.
//
// Tested by tests/worker/exchange/tcp_listener_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_LISTENER_H_
#define MOE_WORKER_EXCHANGE_TCP_LISTENER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/exchange/clock.h"
#include "worker/exchange/tcp_handshake.h"
#include "worker/exchange/tcp_socket.h"

namespace moe::exchange {

// Where authenticated connections wait for the group that they are for. Thread-safe.
class PeerInbox {
 public:
  static absl::StatusOr<std::shared_ptr<PeerInbox>> Create();

  struct Arrival {
    OwnedFd socket;
    int rank = 0;
  };
  void Push(Arrival arrival) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<Arrival> TakeAll() ABSL_LOCKS_EXCLUDED(mutex_);

  // Readable after Push or Wake, until TakeAll.
  int event_fd() const { return event_.get(); }
  // Async-signal-safe, and cheap.
  void Wake() const;

 private:
  explicit PeerInbox(OwnedFd event) : event_(std::move(event)) {}

  const OwnedFd event_;
  absl::Mutex mutex_;
  std::vector<Arrival> arrivals_ ABSL_GUARDED_BY(mutex_);
};

class TcpListener {
 public:
  struct Limits {
    // Connections without proof, besides one for each rank that is awaited. Beyond, the oldest is
    // closed, first among those that have not even said who they are.
    size_t max_pending = 256;
    // From accept to the proof.
    absl::Duration handshake_deadline = absl::Seconds(5);
  };

  // address: HOST:PORT, numeric (see tcp_socket.h); port 0 takes a free one.
  static absl::StatusOr<std::unique_ptr<TcpListener>> Start(const std::string& address,
                                                            const Limits& limits);
  static absl::StatusOr<std::unique_ptr<TcpListener>> Start(const std::string& address) {
    return Start(address, Limits());
  }
  ~TcpListener();
  TcpListener(const TcpListener&) = delete;
  TcpListener& operator=(const TcpListener&) = delete;

  // HOST:PORT with the real port.
  const std::string& address() const { return address_; }

  // Who may come in: the `awaited` ranks [num_ranks] of one epoch, once each.
  struct Admission {
    uint64_t epoch = 0;
    int rank = 0;  // of this process
    Handshake handshake;
    std::vector<bool> awaited;
    std::shared_ptr<PeerInbox> inbox;
  };
  // Replaces the admission before it, if any. Strangers of a lower epoch are turned away from now
  // on.
  void Admit(Admission admission) ABSL_LOCKS_EXCLUDED(mutex_);
  // Nobody comes into this epoch any more; nothing if it is not the current one.
  void Close(uint64_t epoch) ABSL_LOCKS_EXCLUDED(mutex_);

  // Connections that were closed here without proof.
  uint64_t num_discarded() const { return num_discarded_.load(std::memory_order_relaxed); }

 private:
  struct Stranger {
    enum class State { kSaysHello, kWaitsForEpoch, kProves };
    OwnedFd socket;
    Clock::time_point deadline;
    State state = State::kSaysHello;
    size_t num_read = 0;  // of the message that it sends now
    HelloMessage hello;
    Bytes32 nonce{};  // ours
    ProofMessage proof;
  };
  using Strangers = std::map<uint64_t, Stranger>;  // by number: the oldest first

  TcpListener(OwnedFd listener, OwnedFd epoll, OwnedFd wake, std::string address,
              const Limits& limits);

  void Run();
  void AcceptAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PauseAccepting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResumeAccepting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool EvictOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Goes on with a stranger; it may be gone afterwards.
  void Advance(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What Advance does; false: close the connection.
  bool Continue(uint64_t number, Stranger& stranger) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool SendChallenge(Stranger& stranger) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayEnter(const HelloMessage& hello) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandOver(uint64_t number, Stranger& stranger) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Discard(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Expire(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int MillisecondsToWait() ABSL_LOCKS_EXCLUDED(mutex_);
  void Watch(uint64_t number, const Stranger& stranger, int operation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const OwnedFd listener_;
  const OwnedFd epoll_;
  const OwnedFd wake_;
  const std::string address_;
  const Limits limits_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> num_discarded_{0};

  absl::Mutex mutex_;
  Strangers strangers_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 2;  // 0 and 1 are the listener and wake_
  std::optional<Admission> admission_ ABSL_GUARDED_BY(mutex_);
  uint64_t lowest_epoch_ ABSL_GUARDED_BY(mutex_) = 0;  // that can still be joined
  std::optional<Clock::time_point> paused_until_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_LISTENER_H_
