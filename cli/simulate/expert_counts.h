// A measured router: how many tokens each expert ran, as `moe experts --json` prints it. Pure.
//
// Tested by tests/cli/simulate/expert_counts_test.cc.
#ifndef MOE_CLI_SIMULATE_EXPERT_COUNTS_H_
#define MOE_CLI_SIMULATE_EXPERT_COUNTS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "simulator/router.h"

namespace moe::cli {

// {"num_layers": L, "num_experts": E, "expert_tokens": [L lists of E numbers]}; other fields are
// passed over. InvalidArgument names `file` and what is wrong.
absl::StatusOr<simulator::RouterSpec> ParseExpertCounts(std::string_view json,
                                                        const std::string& file);

}  // namespace moe::cli

#endif  // MOE_CLI_SIMULATE_EXPERT_COUNTS_H_
