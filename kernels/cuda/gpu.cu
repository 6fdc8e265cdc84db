#include <cuda_runtime.h>

#include "device/status.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/launch.cuh"

namespace moe::kernels::cuda {

namespace {

// Compiled as all kernels are.
__global__ void AnyKernel() { AwaitEarlierKernels(); }

}  // namespace

absl::StatusOr<bool> KernelsMayOverlap() {
  constexpr int kNeeded = 90;  // compute capability 9.0, as the runtime counts them
  cudaFuncAttributes attributes = {};
  absl::Status status =
      device::ToStatus(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(AnyKernel)),
                       "asking what the kernels were compiled for");
  if (!status.ok()) return status;
  return attributes.binaryVersion >= kNeeded && attributes.ptxVersion >= kNeeded;
}

}  // namespace moe::kernels::cuda
