// A comparison as a drawing: sequences/s of each layout over the batch, the context and the speed
// of the links, with the crossovers marked. Pure.
//
// Tested by tests/cli/plan/plot_test.cc.
#ifndef MOE_CLI_PLAN_PLOT_H_
#define MOE_CLI_PLAN_PLOT_H_

#include <string>

#include "planner/compare.h"

namespace moe::cli {

// An SVG document of its own.
std::string FormatPlot(const planner::Scenario& scenario, const planner::Comparison& comparison);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_PLOT_H_
