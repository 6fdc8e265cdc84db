#include "device/stream.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "device/status.h"

namespace moe::device {
namespace {

// A wait looks without a pause at first: as long as most steps take.
constexpr absl::Duration kBusyWait = absl::Milliseconds(5);
constexpr absl::Duration kPause = absl::Microseconds(50);

}  // namespace

absl::StatusOr<Event> Event::Create() {
  cudaEvent_t event = nullptr;
  absl::Status status =
      ToStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  if (!status.ok()) return status;
  return Event(event);
}

// A failure to destroy has no cause but a lost device, which every other call reports too.
Event::~Event() {
  if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
}

absl::Status Event::Record(const Stream& stream) {
  return ToStatus(cudaEventRecord(event_, stream.get()), "recording an event");
}

absl::Status Event::Wait() const {
  return ToStatus(cudaEventSynchronize(event_), "waiting for an event");
}

absl::StatusOr<bool> Event::Reached() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) return false;
  absl::Status status = ToStatus(error, "asking for an event");
  if (!status.ok()) return status;
  return true;
}

absl::Status Event::WaitAtMost(absl::Duration limit) const {
  const absl::Time begin = absl::Now();
  while (true) {
    const absl::StatusOr<bool> reached = Reached();
    if (!reached.ok()) return reached.status();
    if (*reached) return absl::OkStatus();
    const absl::Duration waited = absl::Now() - begin;
    if (waited > limit) {
      return DeviceHangs(absl::StrCat("waiting ", absl::FormatDuration(limit), " for the device"));
    }
    if (waited < kBusyWait) {
      std::this_thread::yield();
    } else {
      absl::SleepFor(kPause);
    }
  }
}

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t stream = nullptr;
  absl::Status status =
      ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  if (!status.ok()) return status;
  return Stream(stream);
}

Stream::~Stream() {
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
}

absl::Status Stream::Synchronize() const {
  return ToStatus(cudaStreamSynchronize(stream_), "waiting for a stream");
}

absl::Status Stream::WaitFor(const Event& event) const {
  return ToStatus(cudaStreamWaitEvent(stream_, event.get(), 0), "making a stream wait");
}

}  // namespace moe::device
