// Owns the sockets of an HTTP server while they have no complete request: one thread and epoll.
//
// A connection costs a thread only while its request is answered, so slow or idle clients cost a
// few kilobytes each and nothing else (500 slow-loris sockets do not delay /health). Whoever is
// slower than the deadlines, or comes when connections or memory run out, is answered or closed
// here.
//
// Tested by tests/gateway/http/http_faults_test.cc.
#ifndef MOE_GATEWAY_HTTP_CONNECTION_LOOP_H_
#define MOE_GATEWAY_HTTP_CONNECTION_LOOP_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/http/request_reader.h"

namespace moe::gateway {

struct ConnectionLimits {
  RequestLimits request;
  int max_connections = 2048;  // more: the one that has waited longest for its client is closed
  size_t max_buffered_bytes = size_t{256} << 20;    // requests being received or not yet read
  absl::Duration head_timeout = absl::Seconds(10);  // from the first byte to the last header
  absl::Duration body_timeout = absl::Seconds(60);  // from the headers to the end of the body
  // Before a request's first byte. Longer than proxies keep an idle connection (Traefik 90 s, nginx
  // 60 s): who closes first must be who sends next, or a request meets a closed connection.
  absl::Duration idle_timeout = absl::Seconds(120);
  // After an answer that ends a connection: for the client to read it before the socket is closed.
  absl::Duration linger = absl::Seconds(1);
};

// Bytes in use, shared by all connections. Thread-safe.
class MemoryBudget {
 public:
  explicit MemoryBudget(size_t max_bytes) : max_bytes_(max_bytes) {}
  // Changes what one holder uses from *held to `bytes`. False when the sum is then above the limit.
  bool Set(size_t* held, size_t bytes);

 private:
  const size_t max_bytes_;
  std::atomic<size_t> used_{0};
};

// A client. Owned by the loop, or by the thread that answers its request.
class Connection {
 public:
  Connection(int fd, RequestReader reader, MemoryBudget& budget)
      : fd_(fd), reader_(std::move(reader)), budget_(budget) {}
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }
  // The request to answer, and whether the connection must be closed after that.
  const RequestHead& head() const { return reader_.head(); }
  std::string TakeRequest();
  bool must_close() const { return must_close_; }
  // The request's bytes are no longer held.
  void ReleaseMemory() { budget_.Set(&held_bytes_, 0); }

 private:
  friend class ConnectionLoop;
  enum class Phase { kIdle, kHead, kBody, kLinger };

  const int fd_;
  RequestReader reader_;
  MemoryBudget& budget_;
  size_t held_bytes_ = 0;
  bool must_close_ = false;
  Phase phase_ = Phase::kIdle;
  absl::Time since_;  // of the phase
};

// Runs one thread from Start to Stop.
class ConnectionLoop {
 public:
  struct Callbacks {
    // All are called on the loop's thread and must not block.
    RequestReader::WantsBody wants_body;
    // Takes a connection with a complete request, to give it back by Return. False: overloaded; the
    // connection is left as it was.
    std::function<bool(std::unique_ptr<Connection>&)> serve;
    // The bytes of an answer that closes the connection.
    std::function<std::string(int status, const std::string& reason)> error_response;
  };

  // Takes the listening socket, which is non-blocking.
  ConnectionLoop(int listen_fd, ConnectionLimits limits, Callbacks callbacks);
  ~ConnectionLoop();
  ConnectionLoop(const ConnectionLoop&) = delete;
  ConnectionLoop& operator=(const ConnectionLoop&) = delete;

  // False when the kernel has no epoll or event descriptor for us.
  bool Start();
  // Closes all sockets that the loop owns. Connections that are being answered may come back later.
  void Stop();
  // Thread-safe. After the answer; `keep`: the client may send another request.
  void Return(std::unique_ptr<Connection> connection, bool keep);

  int num_connections() const { return num_connections_.load(); }

 private:
  void Loop();
  void Accept();
  void MakeRoom();
  void TakeReturned();
  void OnReadable(int fd);
  void Handle(std::unique_ptr<Connection> connection);
  void Refuse(std::unique_ptr<Connection> connection, int status, const std::string& reason);
  void Watch(std::unique_ptr<Connection> connection, Connection::Phase phase);
  std::unique_ptr<Connection> Unwatch(int fd);
  void CloseLate();

  const int listen_fd_;
  const ConnectionLimits limits_;
  const Callbacks callbacks_;
  MemoryBudget budget_;
  int epoll_fd_ = -1;
  int event_fd_ = -1;
  std::thread thread_;
  std::atomic<int> num_connections_{0};                           // here and being answered
  std::unordered_map<int, std::unique_ptr<Connection>> waiting_;  // by fd; the loop's thread only
  std::vector<char> receive_buffer_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::pair<std::unique_ptr<Connection>, bool>> returned_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_CONNECTION_LOOP_H_
