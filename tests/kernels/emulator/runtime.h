// What tests see and change of the emulated CUDA runtime. Thread-safe; a stream belongs to one
// thread, and so does what waits for it.
//
// A stream does nothing before somebody waits for it or has asked twice for an event of it: as late
// as a GPU may. Only copies from memory that is not pinned take their bytes at once, and copies to
// such memory wait, as CUDA's do.
#ifndef MOE_TESTS_KERNELS_EMULATOR_RUNTIME_H_
#define MOE_TESTS_KERNELS_EMULATOR_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "tests/kernels/emulator/emulator.h"

namespace moe::emulator {

// Calls since the process began.
struct RuntimeCounts {
  int64_t num_calls = 0;  // that can fail, launches among them
  int64_t num_device_allocations = 0;
  int64_t num_device_bytes = 0;  // allocated; what was freed is not taken off
  int64_t num_host_allocations = 0;
  int64_t num_waits = 0;     // of the host for a stream or an event
  int64_t num_records = 0;   // of events
  int64_t num_launches = 0;  // of kernels, those of graphs not among them
  int64_t num_graph_launches = 0;
};
RuntimeCounts Counts();

// The call after `num_calls` more ones fails with `error`; if `sticky`, so do all later ones.
void FailAfter(int64_t num_calls, cudaError_t error, bool sticky);
// No call fails any more.
void Heal();

// Whether no event is reached any more, as if a kernel did not end.
void SetHanging(bool hangs);

// The compute capability that the kernels were compiled for: 80, 90. The GPU has 9.0.
void SetKernelsVersion(int version);

// The memory of the GPU, in all and free.
void SetDeviceMemory(size_t total_bytes, size_t free_bytes);

// Gives a launch of a kernel to a stream; an error for a grid that no GPU takes.
cudaError_t SubmitLaunch(cudaStream_t stream, Index grid, int num_threads, size_t shared_bytes,
                         std::function<void()> work);

// Gives `work` to a stream, or to the graph that it is capturing.
void Enqueue(cudaStream_t stream, std::function<void()> work);
bool IsCapturing(cudaStream_t stream);

}  // namespace moe::emulator

#endif  // MOE_TESTS_KERNELS_EMULATOR_RUNTIME_H_
