// The runtime calls of include/cuda_runtime_api.h: device memory is host memory, and a stream is a
// queue of work.
#include "tests/kernels/emulator/runtime.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tests/kernels/emulator/memory.h"

namespace {

using moe::emulator::MemoryKind;
using moe::emulator::RuntimeCounts;
using Work = std::function<void()>;

// Whether a thread still runs.
using Alive = std::shared_ptr<std::atomic<bool>>;
const Alive& AliveHere() {
  struct Mark {
    ~Mark() { *alive = false; }
    Alive alive = std::make_shared<std::atomic<bool>>(true);
  };
  thread_local const Mark mark;
  return mark.alive;
}

// What a stream has been given. Its events hold it, too. Thread-safe: freeing memory does what
// threads that have ended left in their streams, while others may begin to use those.
class WorkQueue {
 public:
  void Give(Work work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    user_ = AliveHere();
    work_.push_back(std::move(work));
    ++num_given_;
  }
  // Does what was given before `position`, or waits until another thread has.
  void RunUntil(int64_t position) {
    const std::lock_guard<std::mutex> turn(turn_);
    while (num_done() < position) {
      Take()();
      const std::lock_guard<std::mutex> lock(mutex_);
      ++num_done_;
    }
  }
  void RunAll() { RunUntil(num_given()); }

  int64_t num_given() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return num_given_;
  }
  int64_t num_done() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return num_done_;
  }
  // Whether no other thread that still runs was the last to give something.
  bool IsOfThisThreadOrNone() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return user_ == AliveHere() || !*user_;
  }

 private:
  Work Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    Work work = std::move(work_.front());
    work_.pop_front();
    return work;
  }

  std::mutex turn_;  // of who does the work
  mutable std::mutex mutex_;
  std::deque<Work> work_;
  int64_t num_given_ = 0;
  int64_t num_done_ = 0;
  Alive user_ = AliveHere();  // the thread that gave something last
};

}  // namespace

// What the runtime's handles point to.
struct EmulatedGraph {
  // Held by launches, too, so that a graph may go while one is in a stream.
  std::shared_ptr<std::vector<Work>> work = std::make_shared<std::vector<Work>>();
};
struct EmulatedStream {
  bool capturing = false;
  EmulatedGraph captured;
  std::shared_ptr<WorkQueue> queue = std::make_shared<WorkQueue>();
};
struct EmulatedEvent {
  std::shared_ptr<WorkQueue> queue;  // nullptr: not recorded
  int64_t position = 0;
  bool was_asked = false;
};

namespace {

// Ranks of a test are threads of one process, so every access holds the mutex.
struct Runtime {
  std::mutex mutex;
  RuntimeCounts counts;
  size_t total_bytes = size_t{4} << 30;
  size_t free_bytes = size_t{4} << 30;
  cudaError_t error = cudaSuccess;  // to come
  bool sticky = false;
  int64_t calls_before_error = 0;
  bool hangs = false;
  int kernels_version = 90;
  std::set<std::shared_ptr<WorkQueue>> queues;  // of the streams that live
};
Runtime& The() {
  static auto* runtime = new Runtime;
  return *runtime;
}
using Lock = std::lock_guard<std::mutex>;

void Count(int64_t RuntimeCounts::* counter, int64_t amount = 1) {
  const Lock lock(The().mutex);
  The().counts.*counter += amount;
}

// What a call has to answer before it does anything.
cudaError_t NextCall() {
  Runtime& runtime = The();
  const Lock lock(runtime.mutex);
  ++runtime.counts.num_calls;
  if (runtime.error == cudaSuccess) return cudaSuccess;
  if (runtime.calls_before_error-- > 0) return cudaSuccess;
  runtime.calls_before_error = 0;
  const cudaError_t error = runtime.error;
  if (!runtime.sticky) runtime.error = cudaSuccess;
  return error;
}

void Give(EmulatedStream* stream, Work work) {
  if (stream->capturing) {
    stream->captured.work->push_back(std::move(work));
  } else {
    stream->queue->Give(std::move(work));
  }
}

cudaError_t Submit(EmulatedStream* stream, Work work) {
  const cudaError_t error = NextCall();
  if (error == cudaSuccess) Give(stream, std::move(work));
  return error;
}

cudaError_t Allocate(void** memory, MemoryKind kind, size_t num_bytes) {
  *memory = moe::emulator::AllocateMemory(kind, num_bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

// Freeing waits for the device: for all streams that the calling thread uses, or one that has
// ended.
void RunStreamsHere() {
  std::vector<std::shared_ptr<WorkQueue>> here;
  {
    const Lock lock(The().mutex);
    for (const auto& queue : The().queues) {
      if (queue->IsOfThisThreadOrNone()) here.push_back(queue);
    }
  }
  for (const auto& queue : here) queue->RunAll();
}

}  // namespace

namespace moe::emulator {

RuntimeCounts Counts() {
  const Lock lock(The().mutex);
  return The().counts;
}

void FailAfter(int64_t num_calls, cudaError_t error, bool sticky) {
  const Lock lock(The().mutex);
  The().calls_before_error = num_calls;
  The().error = error;
  The().sticky = sticky;
}
void Heal() {
  const Lock lock(The().mutex);
  The().error = cudaSuccess;
}

void SetHanging(bool hangs) {
  const Lock lock(The().mutex);
  The().hangs = hangs;
}

void SetKernelsVersion(int version) {
  const Lock lock(The().mutex);
  The().kernels_version = version;
}

void SetDeviceMemory(size_t total_bytes, size_t free_bytes) {
  const Lock lock(The().mutex);
  The().total_bytes = total_bytes;
  The().free_bytes = free_bytes;
}

cudaError_t SubmitLaunch(cudaStream_t stream, Index grid, int num_threads, size_t shared_bytes,
                         std::function<void()> work) {
  constexpr unsigned int kMaxSide = 65535;
  constexpr int kMaxThreads = 1024;
  constexpr size_t kMaxSharedBytes = size_t{227} << 10;
  if (grid.x > INT32_MAX || grid.y > kMaxSide || grid.z > kMaxSide || num_threads > kMaxThreads ||
      shared_bytes > kMaxSharedBytes) {
    return cudaErrorInvalidConfiguration;
  }
  if (!stream->capturing) Count(&RuntimeCounts::num_launches);
  return Submit(stream, std::move(work));
}

void Enqueue(cudaStream_t stream, std::function<void()> work) {
  Give(stream, [stream, work = std::move(work)] {
    work();
    EndOverlap(stream);
  });
}
bool IsCapturing(cudaStream_t stream) { return stream->capturing; }

}  // namespace moe::emulator

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    default:
      return "an emulated error";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return NextCall();
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return NextCall();
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "the emulator");
  properties->major = 9;
  properties->multiProcessorCount = 132;
  {
    const Lock lock(The().mutex);
    properties->totalGlobalMem = The().total_bytes;
  }
  properties->sharedMemPerBlockOptin = size_t{227} << 10;
  return NextCall();
}
cudaError_t cudaSetDevice(int) { return NextCall(); }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  const int ptx_version = [] {
    const Lock lock(The().mutex);
    return The().kernels_version;
  }();
  *attributes = {.binaryVersion = 90, .ptxVersion = ptx_version};
  return NextCall();
}

cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  {
    const Lock lock(The().mutex);
    if (num_bytes > The().free_bytes) return cudaErrorMemoryAllocation;
  }
  Count(&RuntimeCounts::num_device_allocations);
  Count(&RuntimeCounts::num_device_bytes, static_cast<int64_t>(num_bytes));
  return Allocate(memory, MemoryKind::kDevice, num_bytes);
}
cudaError_t cudaFree(void* memory) {
  RunStreamsHere();
  return moe::emulator::FreeMemory(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned int) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_host_allocations);
  return Allocate(memory, MemoryKind::kPinned, num_bytes);
}
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  {
    const Lock lock(The().mutex);
    *free_bytes = The().free_bytes;
    *total_bytes = The().total_bytes;
  }
  return NextCall();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  const auto copy = [=](const void* source) {
    const moe::emulator::DeviceAccess access;
    std::memcpy(to, source, num_bytes);
    moe::emulator::EndOverlap(stream);
  };
  if (stream->capturing || (moe::emulator::IsKnown(from) && moe::emulator::IsKnown(to))) {
    return Submit(stream, [=] { copy(from); });
  }
  if (!moe::emulator::IsKnown(from)) {
    const auto* const bytes = static_cast<const char*>(from);
    return Submit(
        stream, [copy, kept = std::vector<char>(bytes, bytes + num_bytes)] { copy(kept.data()); });
  }
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  stream->queue->RunAll();
  copy(from);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t num_bytes, cudaStream_t stream) {
  return Submit(stream, [=] {
    const moe::emulator::DeviceAccess access;
    std::memset(to, byte, num_bytes);
    moe::emulator::EndOverlap(stream);
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  *stream = new EmulatedStream;
  const Lock lock(The().mutex);
  The().queues.insert((*stream)->queue);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->queue->RunAll();
  {
    const Lock lock(The().mutex);
    The().queues.erase(stream->queue);
  }
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_waits);
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
  stream->queue->RunAll();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  if (event->queue == nullptr) return NextCall();
  return Submit(stream,
                [queue = event->queue, position = event->position] { queue->RunUntil(position); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  const cudaError_t error = NextCall();
  if (error == cudaSuccess) *event = new EmulatedEvent;
  return error;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Count(&RuntimeCounts::num_records);
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  *event = {.queue = stream->queue, .position = stream->queue->num_given()};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_waits);
  if (event->queue != nullptr) event->queue->RunUntil(event->position);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  {
    const Lock lock(The().mutex);
    if (The().hangs) return cudaErrorNotReady;
  }
  if (event->queue == nullptr || event->queue->num_done() >= event->position) return cudaSuccess;
  if (!std::exchange(event->was_asked, true)) return cudaErrorNotReady;
  event->queue->RunUntil(event->position);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const cudaError_t error = NextCall();
  if (error == cudaSuccess) stream->capturing = true;
  return error;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const cudaError_t error = NextCall();
  EmulatedGraph captured = std::exchange(stream->captured, {});
  stream->capturing = false;
  if (error == cudaSuccess) *graph = new EmulatedGraph(std::move(captured));
  return error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const cudaError_t error = NextCall();
  if (error == cudaSuccess) *exec = new EmulatedGraph(*graph);
  return error;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_graph_launches);
  stream->queue->Give([work = exec->work] {
    for (const Work& part : *work) part();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  RunStreamsHere();  // may have launches of it
  return cudaGraphDestroy(exec);
}
