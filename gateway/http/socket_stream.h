// What cpp-httplib reads a request from and writes its answer to: a complete request in memory, and
// a socket with a deadline for every write.
//
// Tested by tests/gateway/http/http_faults_test.cc.
#ifndef MOE_GATEWAY_HTTP_SOCKET_STREAM_H_
#define MOE_GATEWAY_HTTP_SOCKET_STREAM_H_

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "httplib.h"

namespace moe::gateway {

// Used by one thread. Does not own the socket, which is non-blocking.
class SocketStream : public httplib::Stream {
 public:
  // `on_read`: called once when the whole request was read and its memory is free.
  SocketStream(int fd, std::string request, absl::Duration write_timeout,
               std::function<void()> on_read);

  bool is_readable() const override { return position_ < request_.size(); }
  bool wait_readable() const override { return is_readable(); }
  bool wait_writable() const override;
  bool is_peer_alive() const override;
  ssize_t read(char* data, size_t size) override;
  // All of it within the deadline, or -1; then the stream is of no further use.
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return fd_; }
  time_t duration() const override { return 0; }

  // Of the answer's first line; 0 before it.
  int status() const { return status_; }
  bool failed() const { return failed_; }

 private:
  const int fd_;
  std::string request_;
  size_t position_ = 0;
  const absl::Duration write_timeout_;
  std::function<void()> on_read_;
  int status_ = 0;
  bool failed_ = false;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_SOCKET_STREAM_H_
