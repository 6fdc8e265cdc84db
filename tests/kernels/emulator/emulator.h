// Blocks of GPU threads as fibers of the calling thread. See README.md.
#ifndef MOE_TESTS_KERNELS_EMULATOR_EMULATOR_H_
#define MOE_TESTS_KERNELS_EMULATOR_EMULATOR_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>

// For what a kernel calls and is the emulator's: its own accesses are not looked at.
#define MOE_EMULATORS_OWN __attribute__((no_sanitize("thread")))

namespace moe::emulator {

struct Index {
  unsigned int x = 0;
  unsigned int y = 0;
  unsigned int z = 0;
};

struct KernelLaunch {
  const char* name = "";
  Index grid;
  int num_threads = 0;
  size_t shared_bytes = 0;
  const void* stream = nullptr;
  bool overlaps_kernels = false;  // with the one before it in the stream
};

// Runs `kernel` once for each thread of each block; blocks one after the other. Any thread: calls
// take turns. What it does between BeginKernel and EndKernel is checked (access_check.h).
void Run(const KernelLaunch& launch, const std::function<void()>& kernel);
void BeginKernel();
void EndKernel();
// Something that is no kernel has run in the stream: no kernel overlaps what was before it.
void EndOverlap(const void* stream);
// kernels/cuda/launch.cuh has its rules. Kernels run one after the other here, but are held to
// them.
void AwaitEarlierKernels();

// Of the fiber that runs.
Index CurrentThread();
Index CurrentBlock();
Index CurrentGrid();
int CurrentLane();
unsigned char* DynamicShared();

void WaitForBlock();
// __syncwarp: what lanes wrote before it, the others see after it.
void WaitForWarp();

// Waits for the lanes, as ExchangeInWarp does.
void MeetWarp();

// What a lane gives to the others of its warp.
struct LaneData {
  std::array<uint32_t, 6> words;
};
inline LaneData DataOf(const void* pointer) {
  const auto bits = std::bit_cast<uint64_t>(pointer);
  return {{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), 0, 0, 0, 0}};
}
inline const void* PointerOf(const LaneData& data) {
  return std::bit_cast<const void*>(uint64_t{data.words[1]} << 32 | data.words[0]);
}
// Waits for all lanes of the warp, but orders no memory; what each gave, [32]. Valid until this
// lane's next exchange.
const LaneData* ExchangeInWarp(const LaneData& mine);

// Copies of a thread, in groups; a copy is made when its group is waited for.
void CopyAsync(void* to, const void* from, int valid_bytes);
void CommitCopies();
void WaitForCopies(int num_pending);

}  // namespace moe::emulator

#endif  // MOE_TESTS_KERNELS_EMULATOR_EMULATOR_H_
