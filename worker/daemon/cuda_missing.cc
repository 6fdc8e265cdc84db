// The GPU's part of backend_choice.h, in builds without MOE_CUDA.
#include "worker/daemon/backend_choice.h"

namespace moe::worker {
namespace {

absl::Status NotBuilt() {
  return absl::FailedPreconditionError(
      "this moe-worker was built without CUDA: build it with `tools/build-cuda moe-worker`, run "
      "the image moe-worker-cuda, or use --backend cpu");
}

}  // namespace

absl::StatusOr<FoundGpu> FindGpu(int) { return NotBuilt(); }

absl::StatusOr<std::unique_ptr<model::Backend>> MakeCudaBackend(const BackendOptions&) {
  return NotBuilt();
}

std::unique_ptr<DeviceGroups> MakeDeviceGroups() { return nullptr; }

}  // namespace moe::worker
