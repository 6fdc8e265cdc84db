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

template <typename... Parameters, typename... Arguments>
absl::Status Launch(const Gpu& gpu, absl::string_view name, void (*kernel)(Parameters...),
                    dim3 grid, int threads, size_t shared_bytes, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return absl::OkStatus();
  // By value: a graph runs it later.
  return device::ToStatus(emulator::SubmitLaunch(gpu.stream,
                                                 [=] {
                                                   emulator::Run({grid.x, grid.y, grid.z}, threads,
                                                                 shared_bytes,
                                                                 [&] { kernel(arguments...); });
                                                 }),
                          "launching " + std::string(name));
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LAUNCH_CUH_
