// The runtime calls of include/cuda_runtime_api.h: device memory is host memory, and streams do at
// once what they are given, or keep it for a graph.
#include "tests/kernels/emulator/runtime.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

// What the runtime's handles point to.
struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};
struct EmulatedStream {
  bool capturing = false;
  EmulatedGraph captured;
};

namespace {

using moe::emulator::RuntimeCounts;

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 16;  // what the kernels ask for; more would hide reads past the end

struct Mapping {
  void* start;
  size_t num_bytes;
};

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
  std::map<void*, Mapping> mappings;  // of the allocations that live
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

// Waiting for a stream that captures is what a GPU refuses, too.
cudaError_t Wait(const EmulatedStream* stream) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_waits);
  return stream != nullptr && stream->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t Submit(EmulatedStream* stream, std::function<void()> work) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  if (stream != nullptr && stream->capturing) {
    stream->captured.work.push_back(std::move(work));
  } else {
    work();
  }
  return cudaSuccess;
}

cudaError_t Allocate(void** memory, size_t num_bytes) {
  // The end, up to the alignment, touches a page that must not be used; the start is filled with
  // NaN.
  const size_t aligned = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t usable = (aligned + kPage - 1) / kPage * kPage;
  void* start =
      mmap(nullptr, usable + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return cudaErrorMemoryAllocation;
  auto* const bytes = static_cast<unsigned char*>(start);
  std::memset(bytes, 0xff, usable);
  mprotect(bytes + usable, kPage, PROT_NONE);
  *memory = bytes + usable - aligned;
  const Lock lock(The().mutex);
  The().mappings[*memory] = {start, usable + kPage};
  return cudaSuccess;
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

void SetDeviceMemory(size_t total_bytes, size_t free_bytes) {
  const Lock lock(The().mutex);
  The().total_bytes = total_bytes;
  The().free_bytes = free_bytes;
}

cudaError_t SubmitLaunch(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr || !stream->capturing) Count(&RuntimeCounts::num_launches);
  return Submit(stream, std::move(work));
}

bool KeepForGraph(cudaStream_t stream, std::function<void()> work) {
  if (!stream->capturing) return false;
  stream->captured.work.push_back(std::move(work));
  return true;
}

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

cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  {
    const Lock lock(The().mutex);
    if (num_bytes > The().free_bytes) return cudaErrorMemoryAllocation;
  }
  Count(&RuntimeCounts::num_device_allocations);
  Count(&RuntimeCounts::num_device_bytes, static_cast<int64_t>(num_bytes));
  return Allocate(memory, num_bytes);
}
cudaError_t cudaFree(void* memory) {
  const Lock lock(The().mutex);
  const auto it = The().mappings.find(memory);
  if (it == The().mappings.end()) return cudaErrorInvalidValue;
  munmap(it->second.start, it->second.num_bytes);
  The().mappings.erase(it);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned int) {
  const cudaError_t error = NextCall();
  if (error != cudaSuccess) return error;
  Count(&RuntimeCounts::num_host_allocations);
  return Allocate(memory, num_bytes);
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
  return Submit(stream, [=] { std::memcpy(to, from, num_bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t num_bytes, cudaStream_t stream) {
  return Submit(stream, [=] { std::memset(to, byte, num_bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  const cudaError_t error = NextCall();
  if (error == cudaSuccess) *stream = new EmulatedStream;
  return error;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return Wait(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) { return NextCall(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = nullptr;
  return NextCall();
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  Count(&RuntimeCounts::num_records);
  return NextCall();
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return Wait(nullptr); }
cudaError_t cudaEventQuery(cudaEvent_t) {
  const cudaError_t error = NextCall();
  const Lock lock(The().mutex);
  return error == cudaSuccess && The().hangs ? cudaErrorNotReady : error;
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
  for (const auto& work : exec->work) work();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }
