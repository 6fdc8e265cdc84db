#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"
#include "tests/kernels/emulator/wrong_kernels.h"

namespace moe::kernels::cuda {
namespace {

__global__ void PassOnKernel(Between between, int distance, int32_t* out) {
  auto* const words = reinterpret_cast<int32_t*>(DynamicShared());
  const int thread = static_cast<int>(threadIdx.x);
  words[thread] = thread;
  if (between == Between::kShuffle) static_cast<void>(__shfl_sync(kAllLanes, thread, 0));
  if (between == Between::kWarpSync) __syncwarp();
  if (between == Between::kBarrier) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = words[(thread + kThreads - distance) % kThreads];
}

__global__ void ReadThenWriteKernel(bool has_barrier, int32_t* out) {
  auto* const words = reinterpret_cast<int32_t*>(DynamicShared());
  const int thread = static_cast<int>(threadIdx.x);
  words[thread] = thread;
  __syncthreads();
  const int32_t read = words[0];
  if (has_barrier) __syncthreads();
  if (thread == kThreads - 1) words[0] = read + 1;
  out[thread] = read;
}

__global__ void WriteSamePlaceKernel(int32_t* out) {
  if (threadIdx.x == 0) out[0] = 1;
}
__global__ void ReadOfOtherBlockKernel(int32_t* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = blockIdx.x == 0 ? 1 : out[0] + 1;
}
__global__ void ReadAtKernel(const unsigned char* bytes, int offset, int32_t* out) {
  if (threadIdx.x == 0) out[0] = *reinterpret_cast<const int32_t*>(bytes + offset);
}

__global__ void CopyAndReadKernel(CopyMistake mistake, const int32_t* from, int32_t* out) {
  unsigned char* const shared = DynamicShared();
  const int thread = static_cast<int>(threadIdx.x);
  unsigned char* to = shared + 16 * thread;
  if (mistake == CopyMistake::kTargetNotAligned) to += 4;
  CopyAsync(mistake == CopyMistake::kTargetNotShared ? reinterpret_cast<unsigned char*>(out) : to,
            from + 4 * thread, 16);
  CommitCopies();
  if (mistake != CopyMistake::kNotAwaited) WaitForCopies<0>();
  if (mistake != CopyMistake::kNoBarrier) __syncthreads();
  out[thread] = reinterpret_cast<const int32_t*>(shared)[4 * ((thread + 1) % kThreads)];
}

__global__ void WaitAndWrite(int32_t* to) {
  AwaitEarlierKernels();
  if (threadIdx.x == 0) *to = 1;
}
__global__ void BeEarly(Early mistake, int32_t* out) {
  const bool is_first = threadIdx.x == 0;
  if (mistake == Early::kEnd && !is_first) return;
  if (mistake == Early::kWrite && is_first) out[2] = 1;
  int32_t read = 0;
  if (mistake == Early::kRead) read = out[1];
  if (mistake == Early::kReadOlder) read = out[0];
  AwaitEarlierKernels();
  if (is_first) out[3] = read;
}

__global__ void DoNothing() {}

template <typename... Parameters, typename... Arguments>
absl::Status Run(const Gpu& gpu, void (*kernel)(Parameters...), int num_blocks,
                 const Arguments&... arguments) {
  return Launch(gpu, "the test's", kernel, dim3(static_cast<unsigned int>(num_blocks)), kThreads,
                size_t{16} * kThreads, arguments...);
}

}  // namespace

absl::Status PassOn(const Gpu& gpu, int num_blocks, Between between, int distance, int32_t* out) {
  return Run(gpu, PassOnKernel, num_blocks, between, distance, out);
}
absl::Status ReadThenWrite(const Gpu& gpu, bool has_barrier, int32_t* out) {
  return Run(gpu, ReadThenWriteKernel, 1, has_barrier, out);
}
absl::Status WriteSamePlace(const Gpu& gpu, int num_blocks, int32_t* out) {
  return Run(gpu, WriteSamePlaceKernel, num_blocks, out);
}
absl::Status ReadOfOtherBlock(const Gpu& gpu, int num_blocks, int32_t* out) {
  return Run(gpu, ReadOfOtherBlockKernel, num_blocks, out);
}
absl::Status ReadAt(const Gpu& gpu, const unsigned char* bytes, int offset, int32_t* out) {
  return Run(gpu, ReadAtKernel, 1, bytes, offset, out);
}
absl::Status CopyAndRead(const Gpu& gpu, CopyMistake mistake, const int32_t* from, int32_t* out) {
  return Run(gpu, CopyAndReadKernel, 1, mistake, from, out);
}
absl::Status OverlapKernels(const Gpu& gpu, Early mistake, int32_t* out) {
  Gpu overlapping = gpu;
  overlapping.overlaps_kernels = true;
  absl::Status status = Run(overlapping, WaitAndWrite, 1, out);
  if (status.ok()) status = Run(overlapping, WaitAndWrite, 1, out + 1);
  if (status.ok()) status = Run(overlapping, BeEarly, 1, mistake, out);
  return status;
}
absl::Status LaunchOfShape(const Gpu& gpu, unsigned int grid_x, unsigned int grid_y, int threads,
                           size_t shared_bytes) {
  return Launch(gpu, "nothing", DoNothing, dim3(grid_x, grid_y), threads, shared_bytes);
}

}  // namespace moe::kernels::cuda
