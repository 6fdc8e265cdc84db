#include "worker/daemon/backend_choice.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/cpu_backend.h"

namespace moe::worker {

absl::StatusOr<BackendDecision> DecideBackend(const std::string& backend,
                                              const absl::StatusOr<FoundGpu>& gpu) {
  if (backend == "cpu") return BackendDecision{.cuda = false, .reason = "--backend cpu"};
  if (backend != "cuda" && backend != "auto") {
    return absl::InvalidArgumentError(
        absl::StrCat("--backend '", backend, "' is none of cpu, cuda and auto"));
  }
  if (gpu.ok()) {
    return BackendDecision{.cuda = true, .reason = gpu->name, .num_gpus = gpu->num_gpus};
  }
  if (backend == "auto") {
    return BackendDecision{.cuda = false, .reason = std::string(gpu.status().message())};
  }
  return absl::Status(gpu.status().code(),
                      absl::StrCat("--backend cuda: ", gpu.status().message()));
}

absl::StatusOr<BackendDecision> DecideBackend(const BackendOptions& options) {
  // A CPU worker asks for no driver.
  if (options.backend == "cpu") return DecideBackend(options.backend, FoundGpu());
  return DecideBackend(options.backend, FindGpu(options.gpu));
}

absl::StatusOr<std::unique_ptr<model::Backend>> MakeBackend(const BackendOptions& options,
                                                            const BackendDecision& decision) {
  if (decision.cuda) return MakeCudaBackend(options);
  return std::make_unique<model::CpuBackend>(
      model::CpuBackend::Options{.level = options.cpu_level});
}

}  // namespace moe::worker
