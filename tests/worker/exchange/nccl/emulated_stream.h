// A stream of the emulated GPU for the fake NCCL.
#ifndef MOE_TESTS_WORKER_EXCHANGE_NCCL_EMULATED_STREAM_H_
#define MOE_TESTS_WORKER_EXCHANGE_NCCL_EMULATED_STREAM_H_

#include <functional>
#include <utility>

#include "device/stream.h"
#include "tests/kernels/emulator/memory.h"
#include "tests/kernels/emulator/runtime.h"
#include "tests/worker/exchange/nccl/fake_nccl.h"

namespace moe::exchange {

// `stream` outlives the communicators that use it.
inline FakeStream EmulatedStreamOf(const device::Stream& stream) {
  cudaStream_t handle = stream.get();
  return {.enqueue =
              [handle](std::function<void()> work) {
                emulator::Enqueue(handle, [work = std::move(work)] {
                  const emulator::DeviceAccess access;
                  work();
                });
              },
          .is_capturing = [handle] { return emulator::IsCapturing(handle); }};
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_NCCL_EMULATED_STREAM_H_
