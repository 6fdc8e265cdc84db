// A TCP socket to a local server, for tests that send what no HTTP library would.
#ifndef MOE_TESTS_GATEWAY_TESTING_RAW_CLIENT_H_
#define MOE_TESTS_GATEWAY_TESTING_RAW_CLIENT_H_

#include <string>
#include <utility>

#include "absl/time/time.h"

namespace moe::gateway::testing {

class RawClient {
 public:
  // Connects to 127.0.0.1.
  explicit RawClient(int port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(RawClient&& other) noexcept : fd_(std::exchange(other.fd_, -1)), ended_(other.ended_) {}
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  // False when the other side has closed.
  bool Send(const std::string& bytes);
  // Only a failure waits so long: a server under a sanitizer on a busy machine takes its time.
  static constexpr absl::Duration kPatience = absl::Minutes(2);
  // What comes until the other side closes, or nothing comes for `patience`.
  std::string ReceiveAll(absl::Duration patience = kPatience);
  // Until `end` is in what came, the other side closes, or nothing comes for `patience`.
  std::string ReceiveUntil(const std::string& end, absl::Duration patience = kPatience);
  void Close();
  // A receive saw that the other side has closed.
  bool ended() const { return ended_; }
  // Closes with a reset instead of an orderly end.
  void Reset();

 private:
  int fd_ = -1;
  bool ended_ = false;
};

// One request on a connection of its own; the whole answer.
std::string Exchange(int port, const std::string& request);
// A request with a JSON body.
std::string PostRequest(const std::string& path, const std::string& body,
                        const std::string& more_headers = "");
// "HTTP/1.1 200 OK..." -> 200; 0 when it is not an answer.
int StatusOf(const std::string& answer);
// What follows the headers, chunks joined.
std::string BodyOf(const std::string& answer);

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_RAW_CLIENT_H_
