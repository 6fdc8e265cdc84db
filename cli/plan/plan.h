// `moe plan`: which layout, why, and what it will reach. Reads the model's config.json and the
// descriptions of GPUs and links, and prints; all thinking is in planner/.
//
// Tested by tests/cli/plan/plan_test.py.
#ifndef MOE_CLI_PLAN_PLAN_H_
#define MOE_CLI_PLAN_PLAN_H_

#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/plan/hardware_options.h"

namespace moe::cli {

struct PlanOptions {
  HardwareOptions hardware;  // --founding has a model of its own
  std::optional<int> gpus;   // --founding: 64; --compare: what the largest layout needs
  int input_tokens = 512;
  int output_tokens = 128;
  std::optional<double> batch;
  std::string target = "throughput";
  std::vector<std::string> layouts;
  std::vector<std::string> compare;
  std::string plot;  // path of an SVG file
  bool founding = false;
  bool overlap = false;
  bool ideal = false;
  bool sources = false;
  double router_max_over_mean = 1;
  std::optional<double> price;
  std::string output = "table";
  int num_layouts = 10;
};

// Adds the subcommand; `options` is filled when it is parsed and must outlive `app`.
CLI::App* AddPlan(CLI::App* app, PlanOptions* options);

// The exit code of `moe`: 0, 1 if nothing can work or a file can't be read or written, 2 if the
// options are wrong.
int RunPlan(const PlanOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_PLAN_H_
