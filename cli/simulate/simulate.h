// `moe simulate`: what a deployment would do under a load, on GPUs that are not there. Reads files
// and options, and prints; everything happens in simulator/.
//
// Tested by tests/cli/simulate/simulate_test.py.
#ifndef MOE_CLI_SIMULATE_SIMULATE_H_
#define MOE_CLI_SIMULATE_SIMULATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/plan/hardware_options.h"
#include "simulator/limits.h"

namespace moe::cli {

struct SimulateOptions {
  HardwareOptions hardware;
  std::string layout;
  std::optional<std::string> arrivals;       // unset: poisson:10/s
  std::optional<std::string> input_tokens;   // unset: 512
  std::optional<std::string> output_tokens;  // unset: 128
  std::string trace;                         // a file, in place of the three
  std::optional<std::string> duration;       // unset: 60s, or to the last request of the trace
  std::string router = "uniform";
  std::string steps;  // a file of measured step times
  std::vector<std::string> failures;
  uint64_t seed = 1;
  simulator::EngineLimits limits;
  std::string start_time = "5s";
  std::string load_speed = "2GB/s";
  std::string connect_time = "1s";
  std::string report_time = "1s";
  std::string step_deadline = "10s";
  bool overlap = false;
  std::string output = "table";
};

// Adds the subcommand; `options` is filled when it is parsed and must outlive `app`.
CLI::App* AddSimulate(CLI::App* app, SimulateOptions* options);

// The exit code of `moe`: 0, 1 if the deployment can't work or a file can't be read, 2 if the
// options are wrong.
int RunSimulate(const SimulateOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_SIMULATE_SIMULATE_H_
