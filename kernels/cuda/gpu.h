// What every GPU operation gets beside its buffers.
#ifndef MOE_KERNELS_CUDA_GPU_H_
#define MOE_KERNELS_CUDA_GPU_H_

#include <cuda_runtime_api.h>

namespace moe::kernels::cuda {

// The first compute capability with Gpu::overlaps_kernels.
inline constexpr int kOverlapComputeMajor = 9;

// Cheap to copy. The stream is not owned.
struct Gpu {
  cudaStream_t stream = nullptr;
  int num_sms = 1;  // of the device: tiles are chosen by it, bits are not
  // Kernels begin while the one before them in the stream still runs (launch.cuh).
  bool overlaps_kernels = false;
};

}  // namespace moe::kernels::cuda

#endif  // MOE_KERNELS_CUDA_GPU_H_
