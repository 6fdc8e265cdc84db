// The GPU's part of backend_choice.h, in builds with MOE_CUDA.
#include <utility>

#include "absl/strings/str_format.h"
#include "worker/cuda/backend.h"
#include "worker/daemon/backend_choice.h"

namespace moe::worker {

absl::StatusOr<std::string> FindGpu() {
  const auto info = cuda::FindDevice({});
  if (!info.ok()) return info.status();
  return absl::StrFormat("GPU %d (%s, compute capability %d.%d)", info->ordinal, info->name,
                         info->compute_major, info->compute_minor);
}

absl::StatusOr<std::unique_ptr<model::Backend>> MakeCudaBackend(const BackendOptions& options) {
  auto backend = cuda::CudaBackend::Create(
      {.memory_share = options.gpu_memory_share, .cpu_level = options.cpu_level});
  if (!backend.ok()) return backend.status();
  return *std::move(backend);
}

}  // namespace moe::worker
