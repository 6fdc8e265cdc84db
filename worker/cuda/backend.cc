#include "worker/cuda/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "device/status.h"
#include "worker/cuda/rank.h"

namespace moe::cuda {
namespace {

// Changes whenever any output bit of any kernel changes.
constexpr int kNumericsVersion = 1;

}  // namespace

absl::StatusOr<device::DeviceInfo> FindDevice(const CudaOptions& options) {
  const auto devices = device::QueryDevices();
  if (!devices.ok()) return devices.status();
  if (options.ordinal < 0 || static_cast<size_t>(options.ordinal) >= devices->size()) {
    return absl::FailedPreconditionError(absl::StrFormat("there is no GPU %d: this process sees %d",
                                                         options.ordinal, devices->size()));
  }
  device::DeviceInfo info = (*devices)[static_cast<size_t>(options.ordinal)];
  absl::Status status = device::CheckDevice(info);
  if (!status.ok()) return status;
  return info;
}

std::string CudaNumericsId(const device::DeviceInfo& info) {
  return absl::StrCat("cuda-", kNumericsVersion, "-sm", info.compute_major, info.compute_minor);
}

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(const CudaOptions& options) {
  auto info = FindDevice(options);
  if (!info.ok()) return info.status();
  return std::unique_ptr<CudaBackend>(new CudaBackend(options, *std::move(info)));
}

absl::StatusOr<std::unique_ptr<model::RankModel>> CudaBackend::Load(
    const model::Checkpoint& checkpoint, const model::RankSpec& spec, model::StepTimes* times,
    const model::Checkpoint::Progress& progress) {
  absl::Status status = device::UseDevice(device_.ordinal);
  if (!status.ok()) return status;
  return CudaRank::Create(checkpoint, spec, options_, device_, times, progress);
}

bool CudaBackend::IsLost(const absl::Status& status) const { return device::IsDeviceLost(status); }

}  // namespace moe::cuda
