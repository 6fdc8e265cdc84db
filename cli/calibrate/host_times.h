// What a step takes beside its weights and rows: real steps of an attention rank with a model so
// small that nothing is left to compute.
//
// Tested by tests/cli/calibrate/calibrate_test.py.
#ifndef MOE_CLI_CALIBRATE_HOST_TIMES_H_
#define MOE_CLI_CALIBRATE_HOST_TIMES_H_

#include "absl/status/statusor.h"
#include "cli/calibrate/kernel_times.h"
#include "planner/hardware.h"

namespace moe::cli {

// Of one sequence that decodes. Errors of the engine as they are.
absl::StatusOr<planner::HostTimes> MeasureHost(const KernelTimeOptions& options,
                                               const Progress& progress);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_HOST_TIMES_H_
