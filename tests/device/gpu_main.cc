// main() of the tests that need a GPU. Without one it says so and ends with kGpuMissing, which
// ctest shows as skipped, or with 1 where MOE_REQUIRE_GPU is set (make test-gpu): there a GPU has
// to be.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "device/device.h"
#include "gtest/gtest.h"

namespace {

constexpr int kGpuMissing = 77;

absl::StatusOr<moe::device::DeviceInfo> FirstDevice() {
  auto devices = moe::device::QueryDevices();
  if (!devices.ok()) return devices.status();
  const moe::device::DeviceInfo info = devices->front();
  absl::Status status = moe::device::CheckDevice(info);
  if (status.ok()) status = moe::device::UseDevice(info.ordinal);
  if (!status.ok()) return status;
  return info;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const absl::StatusOr<moe::device::DeviceInfo> device = FirstDevice();
  if (!device.ok()) {
    const std::string reason(device.status().message());
    if (std::getenv("MOE_REQUIRE_GPU") != nullptr) {
      std::fprintf(stderr, "FAILED: these tests need a GPU: %s\n", reason.c_str());
      return 1;
    }
    std::printf("SKIPPED, not run: these tests need a GPU: %s. Run them with `make test-gpu`.\n",
                reason.c_str());
    return kGpuMissing;
  }
  std::printf("on %s, compute capability %d.%d, %d SMs\n", device->name.c_str(),
              device->compute_major, device->compute_minor, device->num_sms);
  return RUN_ALL_TESTS();
}
