#include "device/buffer.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_format.h"
#include "device/status.h"

namespace moe::device::internal {

absl::StatusOr<void*> AllocateDevice(size_t num_bytes) {
  if (num_bytes == 0) return nullptr;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, num_bytes);
  if (error == cudaSuccess) return memory;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    if (cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
      return ToStatus(
          error, absl::StrFormat("allocating %d bytes on a GPU with %d of %d bytes free", num_bytes,
                                 free_bytes, total_bytes));
    }
  }
  return ToStatus(error, absl::StrFormat("allocating %d bytes on the GPU", num_bytes));
}

absl::StatusOr<void*> AllocatePinned(size_t num_bytes) {
  if (num_bytes == 0) return nullptr;
  void* memory = nullptr;
  absl::Status status =
      ToStatus(cudaHostAlloc(&memory, num_bytes, cudaHostAllocDefault),
               absl::StrFormat("allocating %d bytes of pinned host memory", num_bytes));
  if (!status.ok()) return status;
  return memory;
}

// Freeing fails only on a lost device, which every other call reports too.
void FreeDevice(void* memory) {
  if (memory != nullptr) static_cast<void>(cudaFree(memory));
}
void FreePinned(void* memory) {
  if (memory != nullptr) static_cast<void>(cudaFreeHost(memory));
}

absl::Status Copy(void* to, const void* from, size_t num_bytes, const Stream& stream) {
  if (num_bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream.get()),
                  absl::StrFormat("copying %d bytes", num_bytes));
}

absl::Status Fill(void* to, int byte, size_t num_bytes, const Stream& stream) {
  if (num_bytes == 0) return absl::OkStatus();
  return ToStatus(cudaMemsetAsync(to, byte, num_bytes, stream.get()),
                  absl::StrFormat("filling %d bytes", num_bytes));
}

}  // namespace moe::device::internal
