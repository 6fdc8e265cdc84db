// What every GPU operation gets beside its buffers.
#ifndef MOE_KERNELS_CUDA_GPU_H_
#define MOE_KERNELS_CUDA_GPU_H_

#include <cuda_runtime_api.h>

#include "absl/status/statusor.h"

namespace moe::kernels::cuda {

// Cheap to copy. The stream is not owned.
struct Gpu {
  cudaStream_t stream = nullptr;
  int num_sms = 1;  // of the device: tiles are chosen by it, bits are not
  // Kernels begin while the one before them in the stream still runs (launch.cuh). Only where
  // KernelsMayOverlap() says so.
  bool overlaps_kernels = false;
};

// Whether the calling thread's GPU can do that, and the kernels that this program has for it wait
// as they then must: code that was compiled for a GPU before compute capability 9.0 does not, also
// where the driver has translated it for a later one.
absl::StatusOr<bool> KernelsMayOverlap();

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_GPU_H_
