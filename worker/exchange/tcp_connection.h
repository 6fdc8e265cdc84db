// One connection between two ranks: frames out of and into memory that others own, without blocking
// and without copying bodies.
//
// Sending: Queue, then Flush until it says that everything is sent. Receiving: Read returns when a
// header is complete; the caller checks it, says with SetBody where the body goes, and calls Read
// again until the frame is complete. Nothing is buffered here but a header in each direction that
// is under way, so the memory of a connection does not depend on what the other end sends.
//
// Not thread-safe. Tested by tests/worker/exchange/tcp_fault_test.cc and epoch_exchange_test.cc.
#ifndef MOE_WORKER_EXCHANGE_TCP_CONNECTION_H_
#define MOE_WORKER_EXCHANGE_TCP_CONNECTION_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/exchange/tcp_frame.h"
#include "worker/exchange/tcp_socket.h"

namespace moe::exchange {

// Memory for one body, aligned to kBodyAlignment; grows to the largest one that was asked for.
class BodyBuffer {
 public:
  // The old content is lost.
  char* Resize(size_t num_bytes);
  char* data() const { return static_cast<char*>(memory_.get()); }

 private:
  struct FreeMemory {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, FreeMemory> memory_;
  size_t capacity_ = 0;
};

// A list of memory ranges in which neighbours are merged.
class IoList {
 public:
  void Clear() { ranges_.clear(); }
  void Add(const void* begin, size_t num_bytes);
  absl::Span<const iovec> ranges() const { return ranges_; }

 private:
  std::vector<iovec> ranges_;
};

class Connection {
 public:
  // At any time a rank has one dispatch, one answer and one message of the control channel under
  // way to another at most.
  static constexpr int kMaxQueued = 4;

  explicit Connection(OwnedFd socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.get(); }

  // The ranges stay where they are, unchanged, until Flush has sent them. Internal if too many
  // frames wait.
  absl::Status Queue(const FrameHeader& header, absl::Span<const iovec> body);
  // Sends what the system takes. True if everything is sent; Unavailable if the other end is gone.
  absl::StatusOr<bool> Flush();
  bool has_unsent() const { return num_queued_ > 0; }
  // Whether a frame of this type waits to be sent.
  bool HasUnsent(FrameType type) const;

  enum class ReadState { kNothing, kHeader, kFrame };
  // Receives what is there, up to the end of a header or a body. Unavailable if the other end is
  // gone.
  absl::StatusOr<ReadState> Read();
  // The header of the frame that comes in.
  const FrameHeader& header() const { return header_; }
  // After kHeader: where the body goes. Together exactly header().num_bytes.
  void SetBody(absl::Span<const iovec> body);

 private:
  struct Outgoing {
    FrameHeader header;
    std::vector<iovec> body;
    size_t num_sent = 0;  // bytes of header and body
  };

  void AppendUnsent(const Outgoing& frame, std::vector<iovec>* ranges) const;
  void CountSent(size_t num_bytes);

  OwnedFd socket_;

  std::array<Outgoing, kMaxQueued> queue_;  // a ring
  int first_ = 0;
  int num_queued_ = 0;
  std::vector<iovec> unsent_;  // scratch

  FrameHeader header_;
  size_t num_header_bytes_ = 0;
  bool has_body_ = false;    // SetBody was called for the current header
  std::vector<iovec> body_;  // what is still to come, from next_
  size_t next_ = 0;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_TCP_CONNECTION_H_
