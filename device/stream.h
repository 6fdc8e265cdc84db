// Streams and events of the calling thread's GPU. Movable owners; not thread-safe.
// Tested by tests/device/gpu_memory_test.cc.
#ifndef MOE_DEVICE_STREAM_H_
#define MOE_DEVICE_STREAM_H_

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moe::device {

class Stream;

// A point in a stream. Without timing, so that recording is cheap.
class Event {
 public:
  static absl::StatusOr<Event> Create();
  ~Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  // The point after everything that `stream` has been given so far.
  absl::Status Record(const Stream& stream);
  // Waits on the calling thread. A kernel that failed before the point is reported here.
  absl::Status Wait() const;
  // The same, but for longer than `limit` the device counts as lost: IsDeviceLost. Looks all the
  // time at first, since most waits are short.
  absl::Status WaitAtMost(absl::Duration limit) const;
  // Whether the point has been reached.
  absl::StatusOr<bool> Reached() const;

  cudaEvent_t get() const { return event_; }

 private:
  explicit Event(cudaEvent_t event) : event_(event) {}

  cudaEvent_t event_;
};

// Does not wait for the default stream.
class Stream {
 public:
  static absl::StatusOr<Stream> Create();
  // Work that is still in the stream finishes.
  ~Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }

  // Waits on the calling thread. A kernel that failed in the stream is reported here.
  absl::Status Synchronize() const;
  // What comes next in this stream waits for `event`.
  absl::Status WaitFor(const Event& event) const;

  cudaStream_t get() const { return stream_; }

 private:
  explicit Stream(cudaStream_t stream) : stream_(stream) {}

  cudaStream_t stream_;
};

}  // namespace moe::device

#endif  // MOE_DEVICE_STREAM_H_
