// Which backend a worker computes with: --backend cpu, cuda or auto.
//
// Tested by tests/worker/daemon/backend_choice_test.cc.
#ifndef MOE_WORKER_DAEMON_BACKEND_CHOICE_H_
#define MOE_WORKER_DAEMON_BACKEND_CHOICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "worker/daemon/group_exchange.h"
#include "worker/model/backend.h"

namespace moe::worker {

struct BackendOptions {
  std::string backend = "cpu";    // cpu, cuda or auto
  int gpu = 0;                    // which one, of those that the process sees
  double gpu_memory_share = 0.9;  // of a GPU's memory, how much may be in use at all
  bool cuda_graphs = true;        // decode steps as CUDA graphs
  bool overlap_kernels = true;    // a GPU's kernels begin while the one before them runs
  kernels::CpuLevel cpu_level = kernels::CpuLevel::kPlain;
};

struct BackendDecision {
  bool cuda = false;
  std::string reason;  // a sentence: what and why
  int num_gpus = 0;    // that the process sees; 0 where it did not look, or uses none
};

struct FoundGpu {
  std::string name;  // in words: "GPU 0 (NVIDIA H200, compute capability 9.0)"
  int num_gpus = 0;  // that the process sees
};

// Pure. `gpu` is the one to use, or why there is none. With "cuda" that is an error;
// InvalidArgument for a name that is none.
absl::StatusOr<BackendDecision> DecideBackend(const std::string& backend,
                                              const absl::StatusOr<FoundGpu>& gpu);

// Looks for a GPU where that matters, and decides.
absl::StatusOr<BackendDecision> DecideBackend(const BackendOptions& options);

absl::StatusOr<std::unique_ptr<model::Backend>> MakeBackend(const BackendOptions& options,
                                                            const BackendDecision& decision);

// In a build with MOE_CUDA these use the GPU; in one without (cuda_missing.cc) the first two say
// so.
//
// FailedPrecondition says what is missing: a build, a driver, a newer one, a GPU.
absl::StatusOr<FoundGpu> FindGpu(int gpu);
absl::StatusOr<std::unique_ptr<model::Backend>> MakeCudaBackend(const BackendOptions& options);
// How ranks on GPUs exchange. Null in a build without CUDA.
std::unique_ptr<DeviceGroups> MakeDeviceGroups();

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_BACKEND_CHOICE_H_
