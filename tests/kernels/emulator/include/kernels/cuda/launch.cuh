// kernels/cuda/launch.cuh for the emulator.
#ifndef MOE_KERNELS_CUDA_LAUNCH_CUH_
#define MOE_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "device/status.h"
#include "kernels/cuda/gpu.h"
#include "tests/kernels/emulator/runtime.h"

namespace moe::kernels::cuda {

inline constexpr int kWarpSize = 32;

inline unsigned char* DynamicShared() { return emulator::DynamicShared(); }
inline void AwaitEarlierKernels() { emulator::AwaitEarlierKernels(); }

template <typename... Parameters, typename... Arguments>
absl::Status Launch(const Gpu& gpu, absl::string_view name, void (*kernel)(Parameters...),
                    dim3 grid, int threads, size_t shared_bytes, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return absl::OkStatus();
  const emulator::Index blocks = {grid.x, grid.y, grid.z};
  // By value: it runs later.
  const auto run = [=, kernel_name = std::string(name)] {
    emulator::Run({.name = kernel_name.c_str(),
                   .grid = blocks,
                   .num_threads = threads,
                   .shared_bytes = shared_bytes,
                   .stream = gpu.stream,
                   .overlaps_kernels = gpu.overlaps_kernels},
                  // Takes the kernel's arguments from memory that is not the GPU's.
                  [&]() MOE_EMULATORS_OWN {
                    emulator::BeginKernel();
                    kernel(arguments...);
                    emulator::EndKernel();
                  });
  };
  return device::ToStatus(emulator::SubmitLaunch(gpu.stream, blocks, threads, shared_bytes, run),
                          "launching " + std::string(name));
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LAUNCH_CUH_
