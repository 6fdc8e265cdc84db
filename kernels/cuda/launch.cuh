// Launching kernels, and the memory that a launch gives its blocks. Included by .cu files only.
#ifndef MOE_KERNELS_CUDA_LAUNCH_CUH_
#define MOE_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "device/status.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

inline constexpr int kWarpSize = 32;

// Shared memory of the block beyond what the kernel declares.
__device__ inline unsigned char* DynamicShared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

// What every thread of every kernel calls, once, and before its first return: waits until the
// kernels before this one in the stream are done, and lets the one behind it begin.
//
// Where Gpu::overlaps_kernels is set, a kernel begins while the one before it runs ("programmatic
// dependent launch", CUDA C++ programming guide). Until it has called this, it may read constants,
// and what kernels before that one have written, and write nothing but its own shared memory: so
// weights may be on their way before the rows are there. All threads must call it because a kernel
// whose blocks end without it could end before the kernels before it, and the next one waits for
// this one alone.
__device__ inline void AwaitEarlierKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" : : : "memory");
  asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}

// Launches blocks of `threads` threads; a grid without blocks is no work. Whether the launch was
// taken: what fails while the kernel runs is told by a later call (device/status.h).
template <typename... Parameters, typename... Arguments>
absl::Status Launch(const Gpu& gpu, absl::string_view name, void (*kernel)(Parameters...),
                    dim3 grid, int threads, size_t shared_bytes, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return absl::OkStatus();
  constexpr size_t kWithoutAsking = size_t{48} << 10;
  if (shared_bytes > kWithoutAsking) {
    absl::Status status =
        device::ToStatus(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(shared_bytes)),
                         "asking for the shared memory of " + std::string(name));
    if (!status.ok()) return status;
  }
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned int>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = gpu.stream;
  config.attrs = &overlap;
  config.numAttrs = gpu.overlaps_kernels ? 1 : 0;
  return device::LaunchStatus(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LAUNCH_CUH_
