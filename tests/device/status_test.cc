// Tests device/status.h: the words of errors, which need no GPU.
#include "device/status.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::device {
namespace {

using testing::HasSubstr;

TEST(ToStatusTest, SuccessIsOk) { EXPECT_TRUE(ToStatus(cudaSuccess, "copying").ok()); }

TEST(ToStatusTest, SaysWhatWasDoneAndWhatWentWrong) {
  const absl::Status status = ToStatus(cudaErrorMemoryAllocation, "allocating 5 bytes");
  EXPECT_THAT(std::string(status.message()), HasSubstr("allocating 5 bytes: out of memory"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("cudaErrorMemoryAllocation"));
}

TEST(ToStatusTest, CodesTellWhatACallerCanDo) {
  struct Case {
    cudaError_t error;
    absl::StatusCode code;
    bool lost;
  };
  for (const Case& c : std::vector<Case>{
           {cudaErrorMemoryAllocation, absl::StatusCode::kResourceExhausted, false},
           {cudaErrorInsufficientDriver, absl::StatusCode::kFailedPrecondition, false},
           {cudaErrorNoDevice, absl::StatusCode::kFailedPrecondition, false},
           {cudaErrorNoKernelImageForDevice, absl::StatusCode::kFailedPrecondition, false},
           {cudaErrorInvalidConfiguration, absl::StatusCode::kInvalidArgument, false},
           {cudaErrorInvalidValue, absl::StatusCode::kInvalidArgument, false},
           {cudaErrorUnknown, absl::StatusCode::kInternal, false},
           {cudaErrorIllegalAddress, absl::StatusCode::kDataLoss, true},
           {cudaErrorLaunchFailure, absl::StatusCode::kDataLoss, true},
           {cudaErrorLaunchTimeout, absl::StatusCode::kDataLoss, true},
           {cudaErrorECCUncorrectable, absl::StatusCode::kDataLoss, true},
       }) {
    SCOPED_TRACE(cudaGetErrorName(c.error));
    const absl::Status status = ToStatus(c.error, "x");
    EXPECT_EQ(status.code(), c.code);
    EXPECT_EQ(IsSticky(c.error), c.lost);
    EXPECT_EQ(IsDeviceLost(status), c.lost);
    EXPECT_EQ(std::string(status.message()).find("started again") != std::string::npos, c.lost);
  }
}

TEST(ToStatusTest, AnotherDataLossIsNoLostDevice) {
  EXPECT_FALSE(IsDeviceLost(absl::DataLossError("a file was cut")));
  EXPECT_FALSE(IsDeviceLost(absl::OkStatus()));
}

}  // namespace
}  // namespace moe::device
