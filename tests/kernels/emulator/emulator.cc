#include "tests/kernels/emulator/emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/kernels/emulator/access_check.h"
#include "tests/kernels/emulator/memory.h"

namespace moe::emulator {

namespace {

constexpr int kWarpSize = 32;
constexpr size_t kStackBytes = size_t{128} << 10;
constexpr int kCopyBytes = 16;

struct Copy {
  void* to;
  const void* from;
  int valid_bytes;
};

// A context starts a fiber; after that, jumps are ten times as fast, since they leave the signal
// mask alone.
struct Fiber {
  ucontext_t context = {};
  jmp_buf jump = {};
  bool started = false;
  std::unique_ptr<char[]> stack;
  bool done = false;
  // How often this thread has come to a barrier of its block, and of its warp.
  int64_t num_block_waits = 0;
  int64_t num_warp_waits = 0;
  ThreadPlace place;
  bool is_checked = false;               // the kernel runs, not what calls it
  std::vector<Copy> copies;              // not committed yet
  std::deque<std::vector<Copy>> groups;  // committed, oldest first
};

struct Warp {
  int64_t num_arrived = 0;  // lanes, over all barriers so far
  // Alternating, so that a fast lane does not overwrite what a slow one reads.
  std::array<std::array<LaneData, kWarpSize>, 2> data = {};
};

struct Block {
  Index grid;
  Index idx;
  int num_threads = 0;
  const std::function<void()>* kernel = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  int64_t num_arrived = 0;
  int running = 0;
  int64_t num_events = 0;  // arrivals and ends: without one in a round, nobody can go on
  jmp_buf scheduler = {};
  unsigned char* shared = nullptr;
};

// The block that runs: one at a time in the process, since the shared memory that kernels declare
// is static. Threads that launch take turns.
std::mutex launch_mutex;
Block* current = nullptr;

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "emulator: block (%u, %u, %u), thread %d: %s\n", current->idx.x,
               current->idx.y, current->idx.z, current->running, what);
  std::abort();
}

Fiber& Running() { return current->fibers[current->running]; }

// While one lives, the accesses of this thread are the emulator's own.
class Unchecked {
 public:
  Unchecked() : before_(SetChecked(nullptr)) {}
  ~Unchecked() { SetChecked(before_); }
  Unchecked(const Unchecked&) = delete;
  Unchecked& operator=(const Unchecked&) = delete;

 private:
  const ThreadPlace* const before_;
};

void Yield() {
  SetChecked(nullptr);
  if (_setjmp(Running().jump) == 0) _longjmp(current->scheduler, 1);
  Fiber& fiber = Running();
  if (fiber.is_checked) SetChecked(&fiber.place);
}

// Runs `fiber` until it yields.
void Continue(Fiber& fiber) {
  if (_setjmp(current->scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.jump, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

void Enter() {
  (*current->kernel)();
  Running().done = true;
  ++current->num_events;
  Yield();
}

// Back to the start of the kernel.
void Prepare(Fiber* fiber, int64_t block, int thread) {
  const auto stack = std::bit_cast<uintptr_t>(fiber->stack.get());
  fiber->place = {.block = block, .thread = thread, .stack = {stack, stack + kStackBytes}};
  fiber->is_checked = false;
  fiber->started = false;
  fiber->done = false;
  fiber->num_block_waits = 0;
  fiber->num_warp_waits = 0;
  fiber->copies.clear();
  fiber->groups.clear();
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, Enter, 0);
}

// Runs all fibers of a block to their ends.
void RunBlock(bool reversed) {
  Block& block = *current;
  int num_done = 0;
  while (num_done < block.num_threads) {
    const int64_t before = block.num_events;
    num_done = 0;
    for (int i = 0; i < block.num_threads; ++i) {
      block.running = reversed ? block.num_threads - 1 - i : i;
      Fiber& fiber = Running();
      if (!fiber.done) Continue(fiber);
      if (fiber.done) ++num_done;
    }
    if (num_done < block.num_threads && block.num_events == before) {
      Fail("threads wait for others that have left or wait elsewhere");
    }
  }
}

}  // namespace

void Run(const KernelLaunch& launch, const std::function<void()>& kernel) {
  const Index grid = launch.grid;
  const int num_threads = launch.num_threads;
  const size_t shared_bytes = launch.shared_bytes;
  if (num_threads % kWarpSize != 0) std::abort();
  const std::lock_guard<std::mutex> lock(launch_mutex);
  const DeviceAccess access;
  Block block;
  current = &block;
  block.grid = grid;
  block.num_threads = num_threads;
  block.kernel = &kernel;
  block.fibers.resize(num_threads);
  for (Fiber& fiber : block.fibers)
    fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  // The end of the memory touches a page that must not be used.
  const size_t mapped = (shared_bytes + 4095) / 4096 * 4096 + 4096;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  auto* const bytes = static_cast<unsigned char*>(memory);
  mprotect(bytes + mapped - 4096, 4096, PROT_NONE);
  block.shared = bytes + mapped - 4096 - (shared_bytes + 127) / 128 * 128;
  block.warps.resize(num_threads / kWarpSize);
  const auto shared = std::bit_cast<uintptr_t>(block.shared);
  const auto lanes = std::bit_cast<uintptr_t>(block.warps.data());
  BeginChecking({.kernel = launch.name,
                 .shared = {shared, shared + shared_bytes},
                 .lanes = {lanes, lanes + block.warps.size() * sizeof(Warp)},
                 .stream = launch.stream,
                 .overlaps_kernels = launch.overlaps_kernels});

  int64_t num_blocks = 0;
  for (unsigned int z = 0; z < grid.z; ++z) {
    for (unsigned int y = 0; y < grid.y; ++y) {
      for (unsigned int x = 0; x < grid.x; ++x) {
        block.idx = {x, y, z};
        block.num_arrived = 0;
        std::fill(block.warps.begin(), block.warps.end(), Warp());
        std::memset(bytes, 0xff, mapped - 4096);
        for (int i = 0; i < num_threads; ++i) Prepare(&block.fibers[i], num_blocks, i);
        RunBlock(num_blocks++ % 2 == 1);
      }
    }
  }
  EndChecking();
  munmap(memory, mapped);
  current = nullptr;
}

void BeginKernel() {
  Fiber& fiber = Running();
  fiber.is_checked = true;
  SetChecked(&fiber.place);
}

void EndKernel() {
  CheckEnd();
  SetChecked(nullptr);
  Running().is_checked = false;
}

void EndOverlap(const void* stream) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  ForgetLaunches(stream);
}

void AwaitEarlierKernels() { Running().place.has_waited = true; }

Index CurrentThread() { return {static_cast<unsigned int>(current->running), 0, 0}; }
Index CurrentBlock() { return current->idx; }
Index CurrentGrid() { return current->grid; }
int CurrentLane() { return current->running % kWarpSize; }
unsigned char* DynamicShared() { return current->shared; }

void WaitForBlock() {
  const int64_t wanted = ++Running().num_block_waits * current->num_threads;
  ++current->num_arrived;
  ++current->num_events;
  while (current->num_arrived < wanted) Yield();
  ++Running().place.num_barriers;
}

void MeetWarp() {
  Warp& warp = current->warps[current->running / kWarpSize];
  const int64_t wanted = ++Running().num_warp_waits * kWarpSize;
  ++warp.num_arrived;
  ++current->num_events;
  while (warp.num_arrived < wanted) Yield();
}

void WaitForWarp() {
  MeetWarp();
  ++Running().place.num_warp_syncs;
}

const LaneData* ExchangeInWarp(const LaneData& mine) {
  Warp& warp = current->warps[current->running / kWarpSize];
  auto& data = warp.data[Running().num_warp_waits % 2];
  data[CurrentLane()] = mine;
  MeetWarp();
  return data.data();
}

void CopyAsync(void* to, const void* from, int valid_bytes) {
  if (valid_bytes < 0 || valid_bytes > kCopyBytes) Fail("a copy of more than 16 bytes");
  CheckCopyStarts(to, from, kCopyBytes, valid_bytes);
  const Unchecked unchecked;
  Running().copies.push_back({to, from, valid_bytes});
}

void CommitCopies() {
  const Unchecked unchecked;
  Running().groups.push_back(std::move(Running().copies));
  Running().copies.clear();
}

void WaitForCopies(int num_pending) {
  std::deque<std::vector<Copy>>& groups = Running().groups;
  for (; static_cast<int>(groups.size()) > num_pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      CheckCopyEnds(copy.to, kCopyBytes);
      const Unchecked unchecked;
      std::memset(copy.to, 0, kCopyBytes);
      if (copy.valid_bytes > 0) std::memcpy(copy.to, copy.from, copy.valid_bytes);
    }
  }
}

}  // namespace moe::emulator
