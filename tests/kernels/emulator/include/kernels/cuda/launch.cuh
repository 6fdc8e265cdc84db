// kernels/cuda/launch.cuh for the emulator.
#ifndef MOE_KERNELS_CUDA_LAUNCH_CUH_
#define MOE_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

inline constexpr int kWarpSize = 32;

inline unsigned char* DynamicShared() { return emulator::DynamicShared(); }

template <typename... Parameters, typename... Arguments>
absl::Status Launch(const Gpu&, absl::string_view, void (*kernel)(Parameters...), dim3 grid,
                    int threads, size_t shared_bytes, const Arguments&... arguments) {
  emulator::Run({grid.x, grid.y, grid.z}, threads, shared_bytes, [&] { kernel(arguments...); });
  return absl::OkStatus();
}

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_LAUNCH_CUH_
