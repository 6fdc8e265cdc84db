// Measured step times as a file. Pure.
//
// Tested by tests/cli/simulate/step_times_file_test.cc.
#ifndef MOE_CLI_SIMULATE_STEP_TIMES_FILE_H_
#define MOE_CLI_SIMULATE_STEP_TIMES_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "simulator/step_times.h"

namespace moe::cli {

// {"source": "where they are from", "decode": [[rows, seconds], ...], "prefill": [...]}.
// InvalidArgument names `file` and what is wrong.
absl::StatusOr<simulator::StepTimes> ParseStepTimes(std::string_view json, const std::string& file);

}  // namespace moe::cli

#endif  // MOE_CLI_SIMULATE_STEP_TIMES_FILE_H_
