#include "device/status.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::device {

namespace {

// Marks a status as one of a lost device.
constexpr absl::string_view kLostPayload = "moe-operator.dev/device-lost";

absl::StatusCode CodeOf(cudaError_t error) {
  if (IsSticky(error)) return absl::StatusCode::kDataLoss;
  switch (error) {
    case cudaErrorMemoryAllocation:
    case cudaErrorLaunchOutOfResources:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorInitializationError:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorStubLibrary:
      return absl::StatusCode::kFailedPrecondition;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

// The errors of which the documentation of cudaError_t (driver_types.h) says that the process must
// be terminated and relaunched, and those of the hardware.
bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
    case cudaErrorContextIsDestroyed:
      return true;
    default:
      return false;
  }
}

absl::Status ToStatus(cudaError_t error, absl::string_view doing) {
  if (error == cudaSuccess) return absl::OkStatus();
  std::string text =
      absl::StrFormat("%s: %s (%s)", doing, cudaGetErrorString(error), cudaGetErrorName(error));
  if (error == cudaErrorNoKernelImageForDevice) {
    absl::StrAppend(&text, "; this program was not built for this GPU (CMAKE_CUDA_ARCHITECTURES)");
  }
  if (!IsSticky(error)) return {CodeOf(error), text};
  absl::StrAppend(&text, "; the GPU is lost to this process, which has to be started again");
  absl::Status status(CodeOf(error), text);
  status.SetPayload(kLostPayload, absl::Cord(absl::StrCat(static_cast<int>(error))));
  return status;
}

absl::Status DeviceHangs(absl::string_view doing) {
  absl::Status status(absl::StatusCode::kDataLoss,
                      absl::StrCat(doing,
                                   ": the GPU hangs; it is lost to this process, which has to "
                                   "be started again"));
  status.SetPayload(kLostPayload, absl::Cord("hangs"));
  return status;
}

bool IsDeviceLost(const absl::Status& status) {
  return status.GetPayload(kLostPayload).has_value();
}

absl::Status LaunchStatus(cudaError_t error, absl::string_view kernel) {
  if (error == cudaSuccess) return absl::OkStatus();
  static_cast<void>(cudaGetLastError());
  return ToStatus(error, absl::StrCat("launching ", kernel));
}

}  // namespace moe::device
