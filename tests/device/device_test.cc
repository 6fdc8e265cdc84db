// Tests device/device.h: what is said about drivers and GPUs, which needs none of them.
#include "device/device.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::device {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(CudaVersionNameTest, HasMajorAndMinor) {
  EXPECT_EQ(CudaVersionName(13000), "13.0");
  EXPECT_EQ(CudaVersionName(12080), "12.8");
}

TEST(CheckDriverTest, AMissingDriverIsNamedWithWhatIsNeeded) {
  const absl::Status status = CheckDriver({.driver = 0, .runtime = 13000});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("no NVIDIA driver"));
  EXPECT_THAT(Message(status), HasSubstr("CUDA 13.0 or newer"));
}

TEST(CheckDriverTest, AnOldDriverIsNamedWithWhatIsThereAndWhatIsNeeded) {
  const absl::Status status = CheckDriver({.driver = 12080, .runtime = 13020});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("supports CUDA 12.8"));
  EXPECT_THAT(Message(status), HasSubstr("needs 13.0 or newer"));
}

TEST(CheckDriverTest, ADriverOfTheSameMajorVersionOrANewerOneWill) {
  EXPECT_TRUE(CheckDriver({.driver = 13000, .runtime = 13020}).ok());
  EXPECT_TRUE(CheckDriver({.driver = 13010, .runtime = 13000}).ok());
  EXPECT_TRUE(CheckDriver({.driver = 14000, .runtime = 13000}).ok());
}

DeviceInfo Device(int major, int minor, size_t shared_kib) {
  return {.name = "A GPU",
          .compute_major = major,
          .compute_minor = minor,
          .shared_bytes_per_block = shared_kib << 10};
}

TEST(CheckDeviceTest, TakesDataCentreGpusFromAmpereOn) {
  EXPECT_TRUE(CheckDevice(Device(8, 0, 163)).ok());
  EXPECT_TRUE(CheckDevice(Device(9, 0, 227)).ok());
  EXPECT_TRUE(CheckDevice(Device(10, 0, 227)).ok());
}

TEST(CheckDeviceTest, RefusesOlderGpusByName) {
  EXPECT_THAT(Message(CheckDevice(Device(7, 5, 64))),
              HasSubstr("GPU 0 (A GPU) has compute capability 7.5; 8.0 or newer is needed"));
}

TEST(CheckDeviceTest, RefusesGpusWithLittleSharedMemory) {
  EXPECT_THAT(Message(CheckDevice(Device(8, 9, 99))),
              HasSubstr("99 KiB of shared memory for a block; 160 KiB are needed"));
}

TEST(QueryDevicesTest, GivesDevicesOrSaysWhyThereAreNone) {
  const auto devices = QueryDevices();
  if (devices.ok()) {
    EXPECT_FALSE(devices->empty());
    EXPECT_GT(devices->front().num_sms, 0);
  } else {
    EXPECT_EQ(devices.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_FALSE(devices.status().message().empty());
  }
}

}  // namespace
}  // namespace moe::device
