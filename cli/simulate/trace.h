// Arrivals as a file: one request in each line, "seconds,input tokens,output tokens".
//
//   # a comment
//   0.25,512,128
//   1.5,90,300
//
// Seconds count from the start of the run. Lines may come in any order; empty lines and a heading
// (a first line whose first field is no number) are passed over. Pure.
//
// Tested by tests/cli/simulate/trace_test.cc and tests/fuzz/arrival_trace_fuzz.cc.
#ifndef MOE_CLI_SIMULATE_TRACE_H_
#define MOE_CLI_SIMULATE_TRACE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "simulator/workload.h"

namespace moe::cli {

// By arrival; those of one time in the order of the file. InvalidArgument names `file` and the
// line.
absl::StatusOr<std::vector<simulator::Request>> ParseTrace(std::string_view text,
                                                           const std::string& file);

}  // namespace moe::cli

#endif  // MOE_CLI_SIMULATE_TRACE_H_
