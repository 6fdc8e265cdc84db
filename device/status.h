// Errors of the CUDA runtime as absl::Status.
//
// Three kinds matter to callers:
//   a call or launch that was refused   the device goes on; the status says which call and why
//   memory that does not suffice        ResourceExhausted
//   a device that is lost               a kernel failed while it ran, or the hardware did. The
//                                       runtime calls these errors sticky: every later call of this
//                                       process returns them, and only a new process gets a working
//                                       device. IsDeviceLost() tells them from the others.
// A kernel's failure while it runs is reported by some later call: the status names the call that
// reported it, not the kernel.
//
// Tested by tests/device/status_test.cc.
#ifndef MOE_DEVICE_STATUS_H_
#define MOE_DEVICE_STATUS_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moe::device {

// Whether the process has lost its device: no later call can succeed.
bool IsSticky(cudaError_t error);

// OK for cudaSuccess, else a status that says `doing` ("copying 5 bytes to the device"), the
// error's name and its meaning. Codes: DataLoss for sticky errors, ResourceExhausted for memory,
// FailedPrecondition for a driver or device that is missing or too old, InvalidArgument for
// arguments and launch configurations, Internal for the rest.
absl::Status ToStatus(cudaError_t error, absl::string_view doing);

// Of a device that does not get done with its work: lost, too, since only the end of the process
// takes the work off it. `doing`: "waiting for a step".
absl::Status DeviceHangs(absl::string_view doing);

// Whether `status` came from a sticky error or DeviceHangs.
bool IsDeviceLost(const absl::Status& status);

// The status of a launch that gave `error`. Does not wait for the kernel. Sticky errors stay;
// others are no longer the runtime's last one.
absl::Status LaunchStatus(cudaError_t error, absl::string_view kernel);

}  // namespace moe::device

#endif  // MOE_DEVICE_STATUS_H_
