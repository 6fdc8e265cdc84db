// The GPU's part of backend_choice.h, in builds with MOE_CUDA.
#include <utility>

#include "absl/strings/str_format.h"
#include "device/device.h"
#include "worker/cuda/backend.h"
#include "worker/daemon/backend_choice.h"
#include "worker/daemon/nccl_group_exchange.h"
#include "worker/exchange/nccl/nccl_library.h"

namespace moe::worker {
namespace {

absl::StatusOr<MakeNcclApi> LoadLibrary() {
  const auto functions = exchange::LoadNccl();
  if (!functions.ok()) return functions.status();
  return [nccl = *functions](const device::Stream& stream) {
    return exchange::MakeNccl(nccl, stream.get());
  };
}

}  // namespace

absl::StatusOr<FoundGpu> FindGpu(int gpu) {
  const auto info = cuda::FindDevice({.ordinal = gpu});
  if (!info.ok()) return info.status();
  const auto devices = device::QueryDevices();
  if (!devices.ok()) return devices.status();
  return FoundGpu{.name = absl::StrFormat("GPU %d (%s, compute capability %d.%d)", info->ordinal,
                                          info->name, info->compute_major, info->compute_minor),
                  .num_gpus = static_cast<int>(devices->size())};
}

absl::StatusOr<std::unique_ptr<model::Backend>> MakeCudaBackend(const BackendOptions& options) {
  auto backend = cuda::CudaBackend::Create({.ordinal = options.gpu,
                                            .memory_share = options.gpu_memory_share,
                                            .graphs = options.cuda_graphs,
                                            .overlap_kernels = options.overlap_kernels,
                                            .cpu_level = options.cpu_level});
  if (!backend.ok()) return backend.status();
  return *std::move(backend);
}

std::unique_ptr<DeviceGroups> MakeDeviceGroups() {
  return std::make_unique<NcclGroups>(NcclGroupsOptions{.load = LoadLibrary});
}

}  // namespace moe::worker
