// Kernels with mistakes that a GPU does not forgive, or forgives only most of the time, and the
// same without them: for emulator_test.cc. Blocks have kThreads threads, and 16 bytes of dynamic
// shared memory for each.
#ifndef MOE_TESTS_KERNELS_EMULATOR_WRONG_KERNELS_H_
#define MOE_TESTS_KERNELS_EMULATOR_WRONG_KERNELS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gpu.h"

namespace moe::kernels::cuda {

inline constexpr int kThreads = 64;

enum class Between { kNothing, kShuffle, kWarpSync, kBarrier };
// Each thread writes its number to shared memory and takes that of the thread `distance` before it:
// out[num_blocks][kThreads].
absl::Status PassOn(const Gpu& gpu, int num_blocks, Between between, int distance, int32_t* out);

// All threads read a word, which one then overwrites: behind a barrier or not. out[kThreads].
absl::Status ReadThenWrite(const Gpu& gpu, bool has_barrier, int32_t* out);

// Thread 0 of each block writes out[0].
absl::Status WriteSamePlace(const Gpu& gpu, int num_blocks, int32_t* out);
// Block 0 writes out[0], from which the others compute their own word.
absl::Status ReadOfOtherBlock(const Gpu& gpu, int num_blocks, int32_t* out);

// out[0] is the word at bytes + offset.
absl::Status ReadAt(const Gpu& gpu, const unsigned char* bytes, int offset, int32_t* out);

enum class CopyMistake { kNone, kNotAwaited, kNoBarrier, kTargetNotAligned, kTargetNotShared };
// Each thread copies four words of from[4 * kThreads] asynchronously and takes one that the next
// has copied: out[kThreads].
absl::Status CopyAndRead(const Gpu& gpu, CopyMistake mistake, const int32_t* from, int32_t* out);

enum class Early { kNothing, kRead, kWrite, kEnd, kReadOlder };
// Three launches that overlap: the first writes out[0], the second waits and writes out[1], the
// third makes the mistake, or reads what the first has written, which is none.
absl::Status OverlapKernels(const Gpu& gpu, Early mistake, int32_t* out);

// Nothing, in a grid of any shape.
absl::Status LaunchOfShape(const Gpu& gpu, unsigned int grid_x, unsigned int grid_y, int threads,
                           size_t shared_bytes);

}  // namespace moe::kernels::cuda

#endif  // MOE_TESTS_KERNELS_EMULATOR_WRONG_KERNELS_H_
