// The options that say which model runs on which GPUs, for every command that asks the planner.
//
// Tested by tests/cli/plan/plan_test.py and tests/cli/simulate/simulate_test.py.
#ifndef MOE_CLI_PLAN_HARDWARE_OPTIONS_H_
#define MOE_CLI_PLAN_HARDWARE_OPTIONS_H_

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "cli/plan/inputs.h"
#include "planner/prediction.h"

namespace moe::cli {

struct HardwareOptions {
  std::string model;    // name, folder or config.json
  std::string machine;  // a file of `moe calibrate`: stands for the others but the model
  HardwareNames names = {.gpu = "h200", .link = "400Gb/s", .library = "nccl"};
  int gpus_per_node = 8;
};

// Adds --model, --machine, --gpu, --link, --library and --gpus-per-node; `options` must outlive
// `command`.
void AddHardwareOptions(CLI::App* command, HardwareOptions* options);

// The names with --machine, if it is given, in place of the GPU's and the library's.
HardwareNames NamesOf(const HardwareOptions& options);

// Fills model, device and network. Errors name the option.
absl::Status ReadHardwareOptions(const HardwareOptions& options, planner::Scenario* scenario);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_HARDWARE_OPTIONS_H_
