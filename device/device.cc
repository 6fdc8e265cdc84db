#include "device/device.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_format.h"
#include "device/status.h"

namespace moe::device {

namespace {

// A driver runs every runtime of its own major version and of older ones.
int NeededDriver(int runtime) { return runtime / 1000 * 1000; }

absl::StatusOr<DeviceInfo> Query(int ordinal) {
  cudaDeviceProp properties;
  absl::Status status = ToStatus(cudaGetDeviceProperties(&properties, ordinal),
                                 absl::StrFormat("asking for GPU %d", ordinal));
  if (!status.ok()) return status;
  return DeviceInfo{.ordinal = ordinal,
                    .name = properties.name,
                    .compute_major = properties.major,
                    .compute_minor = properties.minor,
                    .num_sms = properties.multiProcessorCount,
                    .total_bytes = properties.totalGlobalMem,
                    .l2_bytes = static_cast<size_t>(properties.l2CacheSize),
                    .shared_bytes_per_block = properties.sharedMemPerBlockOptin};
}

}  // namespace

std::string CudaVersionName(int version) {
  return absl::StrFormat("%d.%d", version / 1000, version % 1000 / 10);
}

absl::Status CheckDriver(const Versions& versions) {
  const std::string needed = CudaVersionName(NeededDriver(versions.runtime));
  if (versions.driver == 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "no NVIDIA driver on this machine (or none in this container): a GPU and a driver for CUDA "
        "%s or newer are needed",
        needed));
  }
  if (versions.driver < NeededDriver(versions.runtime)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the NVIDIA driver is too old: it supports CUDA %s, and this program needs %s or newer",
        CudaVersionName(versions.driver), needed));
  }
  return absl::OkStatus();
}

absl::Status CheckDevice(const DeviceInfo& info) {
  if (info.compute_major < kMinComputeMajor) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "GPU %d (%s) has compute capability %d.%d; %d.0 or newer is needed", info.ordinal,
        info.name, info.compute_major, info.compute_minor, kMinComputeMajor));
  }
  if (info.shared_bytes_per_block < kMinSharedBytesPerBlock) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "GPU %d (%s) has %d KiB of shared memory for a block; %d KiB are needed, as on compute "
        "capability 8.0, 9.0 and 10.0",
        info.ordinal, info.name, info.shared_bytes_per_block >> 10, kMinSharedBytesPerBlock >> 10));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DeviceInfo>> QueryDevices() {
  Versions versions;
  absl::Status status =
      ToStatus(cudaDriverGetVersion(&versions.driver), "asking for the driver's version");
  if (!status.ok()) return status;
  status = ToStatus(cudaRuntimeGetVersion(&versions.runtime), "asking for the runtime's version");
  if (!status.ok()) return status;
  status = CheckDriver(versions);
  if (!status.ok()) return status;
  int num_devices = 0;
  status = ToStatus(cudaGetDeviceCount(&num_devices), "looking for GPUs");
  if (!status.ok()) return status;
  if (num_devices == 0) return absl::FailedPreconditionError("no GPU on this machine");
  std::vector<DeviceInfo> devices;
  for (int ordinal = 0; ordinal < num_devices; ++ordinal) {
    absl::StatusOr<DeviceInfo> info = Query(ordinal);
    if (!info.ok()) return info.status();
    devices.push_back(*std::move(info));
  }
  return devices;
}

absl::StatusOr<MemoryInfo> QueryMemory() {
  MemoryInfo info;
  absl::Status status =
      ToStatus(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "asking for the GPU's memory");
  if (!status.ok()) return status;
  return info;
}

absl::Status UseDevice(int ordinal) {
  return ToStatus(cudaSetDevice(ordinal), absl::StrFormat("using GPU %d", ordinal));
}

}  // namespace moe::device
