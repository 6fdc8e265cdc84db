// config.json of a Mixture-of-Experts model to what the planner needs of it. Pure.
//
// OLMoE goes through the parser that `moe serve` uses and is refused for the same reasons. Of
// Mixtral, Qwen3-MoE and DeepSeek-V2 and V3, which can be planned for but not served, only sizes
// are read.
//
// Tested by tests/cli/plan/model_config_test.cc, fuzzed by tests/fuzz/model_shape_fuzz.cc.
#ifndef MOE_CLI_PLAN_MODEL_CONFIG_H_
#define MOE_CLI_PLAN_MODEL_CONFIG_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "planner/model_shape.h"

namespace moe::cli {

// InvalidArgument names the field at fault; Unimplemented names the architecture and those that are
// known.
absl::StatusOr<planner::ModelShape> ParseModelShape(std::string_view config_json,
                                                    const std::string& name);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_MODEL_CONFIG_H_
