// Which backend a worker computes with: --backend cpu, cuda or auto.
//
// Tested by tests/worker/daemon/backend_choice_test.cc.
#ifndef MOE_WORKER_DAEMON_BACKEND_CHOICE_H_
#define MOE_WORKER_DAEMON_BACKEND_CHOICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "worker/model/backend.h"

namespace moe::worker {

struct BackendOptions {
  std::string backend = "cpu";    // cpu, cuda or auto
  double gpu_memory_share = 0.9;  // of a GPU's memory, how much may be in use at all
  kernels::CpuLevel cpu_level = kernels::CpuLevel::kPlain;
};

struct BackendDecision {
  bool cuda = false;
  std::string reason;  // a sentence: what and why
};

// Pure. `gpu` is what the GPU is called, or why there is none to use. With "cuda" that is an error;
// InvalidArgument for a name that is none.
absl::StatusOr<BackendDecision> DecideBackend(const std::string& backend,
                                              const absl::StatusOr<std::string>& gpu);

// Looks for a GPU where that matters, and decides.
absl::StatusOr<BackendDecision> DecideBackend(const BackendOptions& options);

absl::StatusOr<std::unique_ptr<model::Backend>> MakeBackend(const BackendOptions& options,
                                                            const BackendDecision& decision);

// In a build with MOE_CUDA these use the GPU; in one without (cuda_missing.cc) both say so.
//
// The GPU of this process in words: "GPU 0 (NVIDIA H200, compute capability 9.0)".
// FailedPrecondition says what is missing: a build, a driver, a newer one, a GPU.
absl::StatusOr<std::string> FindGpu();
absl::StatusOr<std::unique_ptr<model::Backend>> MakeCudaBackend(const BackendOptions& options);

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_BACKEND_CHOICE_H_
