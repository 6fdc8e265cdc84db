// The runtime calls of include/cuda_runtime_api.h: device memory is host memory, and streams do at
// once what they are given.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kTotalBytes = size_t{4} << 30;
constexpr size_t kAlignment = 16;  // what the kernels ask for; more would hide reads past the end

struct Mapping {
  void* start;
  size_t num_bytes;
};
// Of the allocations that live.
std::map<void*, Mapping>& Mappings() {
  static auto* mappings = new std::map<void*, Mapping>;
  return *mappings;
}

}  // namespace

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
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "the emulator");
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->totalGlobalMem = kTotalBytes;
  properties->sharedMemPerBlockOptin = size_t{227} << 10;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaMalloc(void** memory, size_t num_bytes) {
  if (num_bytes > kTotalBytes) return cudaErrorMemoryAllocation;
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
  Mappings()[*memory] = {start, usable + kPage};
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const auto it = Mappings().find(memory);
  if (it == Mappings().end()) return cudaErrorInvalidValue;
  munmap(it->second.start, it->second.num_bytes);
  Mappings().erase(it);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** memory, size_t num_bytes, unsigned int) {
  return cudaMalloc(memory, num_bytes);
}
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = kTotalBytes;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, num_bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t num_bytes, cudaStream_t) {
  std::memset(to, byte, num_bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned int) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
