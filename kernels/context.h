// What every operation gets beside its buffers: the CPU level and the threads to run on.
#ifndef MOE_KERNELS_CONTEXT_H_
#define MOE_KERNELS_CONTEXT_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"

namespace moe::kernels {

// Ascending: a CPU that has a level has all lower ones.
enum class CpuLevel { kPlain = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

// The highest level that this CPU (and the operating system) supports.
CpuLevel DetectCpuLevel();
// "plain", "avx2", "avx512", "avx512_bf16".
std::string_view CpuLevelName(CpuLevel level);
// InvalidArgument for an unknown name, FailedPrecondition for a level that this CPU lacks.
absl::StatusOr<CpuLevel> ParseCpuLevel(std::string_view name);

// Cheap to copy. `pool` is not owned and must outlive the context's use.
struct Context {
  CpuLevel level = CpuLevel::kPlain;
  ThreadPool* pool = nullptr;
};

}  // namespace moe::kernels

#endif  // MOE_KERNELS_CONTEXT_H_
