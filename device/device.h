// Which GPUs there are, and whether this program can use them.
// Tested by tests/device/device_test.cc.
#ifndef MOE_DEVICE_DEVICE_H_
#define MOE_DEVICE_DEVICE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::device {

// Versions as the runtime counts them: 1000 * major + 10 * minor. "13.0" for 13000.
std::string CudaVersionName(int version);

struct Versions {
  int driver = 0;   // highest CUDA version that the installed driver supports; 0: no driver
  int runtime = 0;  // of the runtime that is linked into this program
};

struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  size_t total_bytes = 0;  // device memory
  size_t l2_bytes = 0;
  size_t shared_bytes_per_block = 0;  // the most that one block may opt in to
};

// What the kernels of this project need: mma.sync on bf16 and cp.async (compute capability 8.0),
// and shared memory for their largest tile.
inline constexpr int kMinComputeMajor = 8;
inline constexpr size_t kMinSharedBytesPerBlock = size_t{160} << 10;

// FailedPrecondition where there is no driver or it is older than the runtime needs: what is there,
// what is needed.
absl::Status CheckDriver(const Versions& versions);

// FailedPrecondition for a GPU that can't run the kernels: what it has, what is needed.
absl::Status CheckDevice(const DeviceInfo& info);

// The GPUs that this process sees, at least one.
//   FailedPrecondition  no driver, too old a driver, or no GPU
absl::StatusOr<std::vector<DeviceInfo>> QueryDevices();

struct MemoryInfo {
  size_t free_bytes = 0;  // of all processes together
  size_t total_bytes = 0;
};
// Of the calling thread's GPU.
absl::StatusOr<MemoryInfo> QueryMemory();

// Makes a GPU the calling thread's.
absl::Status UseDevice(int ordinal);

}  // namespace moe::device

#endif  // MOE_DEVICE_DEVICE_H_
