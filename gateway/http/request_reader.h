// Cuts the bytes of a connection into HTTP/1.x requests, strictly and within limits. Pure.
//
// cpp-httplib parses and routes requests; this stands before it, because the library reads from a
// blocking thread per connection (so slow clients hold threads), and its framing is lenient: it
// takes a chunk size of "-2", reads lines without CRLF past, and answers 400 where 431 is meant.
// What passes here reaches the library as one complete request with exactly one Content-Length and
// no Transfer-Encoding.
//
// RFC 9112 (https://www.rfc-editor.org/rfc/rfc9112). Refused rather than repaired: bare LF, folded
// header lines, spaces before the colon, several Content-Length, Content-Length together with
// Transfer-Encoding, and any coding but "chunked".
//
// Tested by tests/gateway/http/request_reader_test.cc, fuzzed by tests/fuzz/request_http_fuzz.cc.
#ifndef MOE_GATEWAY_HTTP_REQUEST_READER_H_
#define MOE_GATEWAY_HTTP_REQUEST_READER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace moe::gateway {

struct RequestLimits {
  size_t max_head_bytes = size_t{16} << 10;  // request line and headers
  size_t max_target_bytes = size_t{4} << 10;
  size_t max_headers = 100;
  size_t max_body_bytes = size_t{8} << 20;
  size_t max_trailer_bytes = size_t{4} << 10;  // after a chunked body; not used
};

struct RequestHead {
  std::string method;
  std::string target;
  bool http_1_0 = false;
  std::vector<std::pair<std::string, std::string>> headers;  // names as sent

  // The first value of a header, or empty. Names compare without case.
  absl::string_view Header(absl::string_view name) const;
  bool HasHeader(absl::string_view name) const;
};

// Used by one thread.
class RequestReader {
 public:
  enum class State {
    kHead,      // more bytes needed
    kBody,      // more bytes needed
    kComplete,  // TakeRequest gives the request
    kRejected,  // status() and reason() say why; the connection is of no further use
  };

  // Called once per request when its head is complete. False: the body is not worth reading, as
  // the answer is known from the head. The request is then complete with an empty body, and the
  // connection must be closed after the answer.
  using WantsBody = std::function<bool(const RequestHead&)>;

  RequestReader(RequestLimits limits, WantsBody wants_body)
      : limits_(limits), wants_body_(std::move(wants_body)) {}

  // Takes bytes of the connection. Those after the end of a request are kept for the next.
  State Feed(absl::string_view bytes);

  // The request for the library. REQUIRES: kComplete. Then begins with the next request, which may
  // be complete already.
  std::string TakeRequest();

  State state() const { return state_; }
  int status() const { return status_; }
  const std::string& reason() const { return reason_; }
  const RequestHead& head() const { return head_; }
  // The head asked for "100 Continue" and none was sent; says so once.
  bool TakeContinue() { return std::exchange(send_continue_, false); }
  // The connection must be closed after the answer.
  bool must_close() const { return must_close_; }
  // Bytes held, of this request and after it.
  size_t buffered_bytes() const { return buffer_.capacity() + body_.capacity(); }
  // No byte of a request has come yet.
  bool idle() const { return state_ == State::kHead && rest().empty(); }

 private:
  enum class Framing { kNone, kLength, kChunkSize, kChunkData, kChunkEnd, kTrailer };

  State Advance();
  bool ReadHead();  // false: more bytes needed, or rejected
  bool ReadBody();
  bool ParseHead(absl::string_view head);       // false: rejected
  bool ParseFraming();                          // false: rejected
  bool ParseChunkSize(absl::string_view line);  // false: rejected
  State Reject(int status, std::string reason);
  bool TakeLine(size_t max_bytes, std::string* line);  // false: more bytes needed, or rejected

  const RequestLimits limits_;
  const WantsBody wants_body_;
  State state_ = State::kHead;
  absl::string_view rest() const { return absl::string_view(buffer_).substr(parsed_); }

  std::string buffer_;  // as received
  size_t parsed_ = 0;   // of buffer_; cut off once per Feed, so that small chunks stay cheap
  size_t scanned_ = 0;  // of rest(), where no end of the head is
  RequestHead head_;
  Framing framing_ = Framing::kNone;
  size_t remaining_ = 0;  // bytes of the body or of the chunk
  size_t trailer_bytes_ = 0;
  std::string body_;
  bool must_close_ = false;
  bool send_continue_ = false;
  int status_ = 0;
  std::string reason_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_REQUEST_READER_H_
