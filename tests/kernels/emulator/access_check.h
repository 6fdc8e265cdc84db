// Looks at each access of a kernel to memory, and ends the process with words at one that a GPU
// would not forgive:
//   - to what is not the GPU's: host memory, memory that was freed, another thread's stack
//   - to an address that is not a multiple of its size
//   - two threads at the same bytes, at least one of them writing, without a barrier of the block
//     (or, in one warp, __syncwarp) between: shuffles and matrix instructions order no memory; and
//     nothing orders the blocks of a grid
//   - to bytes that an asynchronous copy has not brought yet
//   - before AwaitEarlierKernels, in a launch that overlaps the kernel before it: to what that one
//     has written, and to anything that is written; and a thread that ends without that call
// The kernels are compiled with the compiler's calls for ThreadSanitizer (__tsan_read4 ...), and
// what they call is here instead of that tool.
//
// Only the thread that launches, with the launch's turn (emulator.cc).
#ifndef MOE_TESTS_KERNELS_EMULATOR_ACCESS_CHECK_H_
#define MOE_TESTS_KERNELS_EMULATOR_ACCESS_CHECK_H_

#include <cstddef>
#include <cstdint>

namespace moe::emulator {

struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool Has(uintptr_t address) const { return address >= begin && address < end; }
};

// A thread of a grid, and how far it has come.
struct ThreadPlace {
  int64_t block = 0;           // in the order of the grid
  int thread = 0;              // of the block
  int64_t num_barriers = 0;    // of the block, that it has passed
  int64_t num_warp_syncs = 0;  // __syncwarp of its warp
  bool has_waited = false;     // for the kernels before this one
  AddressRange stack;
};

struct CheckedLaunch {
  const char* kernel = "";  // its name, which stays as it is until the launch ends
  AddressRange shared;      // dynamic shared memory
  AddressRange lanes;       // the emulator's own, in which lanes give each other values
  const void* stream = nullptr;
  bool overlaps_kernels = false;
};

// From here on accesses belong to a kernel.
void BeginChecking(const CheckedLaunch& launch);
void EndChecking();
// The next launch of the stream has none before it that it could overlap.
void ForgetLaunches(const void* stream);

// Whose accesses follow; nullptr: nobody's, nothing is looked at. Returns who it was.
const ThreadPlace* SetChecked(const ThreadPlace* thread);

// The checked thread ends.
void CheckEnd();

// An asynchronous copy: its start, and the moment at which what it brings is there for its thread.
void CheckCopyStarts(const void* to, const void* from, int num_bytes, int valid_bytes);
void CheckCopyEnds(const void* to, int num_bytes);

}  // namespace moe::emulator

#endif  // MOE_TESTS_KERNELS_EMULATOR_ACCESS_CHECK_H_
