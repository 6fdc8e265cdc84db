// `moe calibrate`: measures this machine's kernels, its exchange between processes and what a step
// takes beside them, and writes a file from which `moe plan` and `moe simulate` predict this
// machine.
//
// Tested by tests/cli/calibrate/calibrate_test.py.
#ifndef MOE_CLI_CALIBRATE_CALIBRATE_H_
#define MOE_CLI_CALIBRATE_CALIBRATE_H_

#include <string>

#include "CLI/CLI.hpp"

namespace moe::cli {

struct CalibrateOptions {
  std::string model;  // a folder with a config.json, or the file; empty: OLMoE-1B-7B's shapes
  std::string output = "machine.json";
  int num_rounds = 5;
  int max_ranks = 64;
};

// Adds the subcommand; `options` is filled when it is parsed and must outlive `app`.
CLI::App* AddCalibrate(CLI::App* app, CalibrateOptions* options);

// The exit code of `moe`: 0, 1 if it can't be measured or the file can't be written, 2 if the
// options are wrong. REQUIRES: this process has one thread.
int RunCalibrate(const CalibrateOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_CALIBRATE_H_
