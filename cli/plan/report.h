// What `moe plan` prints, as text. Pure.
//
// Tested by tests/cli/plan/report_test.cc.
#ifndef MOE_CLI_PLAN_REPORT_H_
#define MOE_CLI_PLAN_REPORT_H_

#include <cstddef>
#include <optional>
#include <string>

#include "planner/compare.h"
#include "planner/prediction.h"
#include "planner/search.h"

namespace moe::cli {

struct ReportOptions {
  size_t num_layouts = 10;           // of the ranked ones to show
  size_t num_refused = 6;            // of the others
  std::optional<double> price = {};  // of a GPU and hour; adds the cost of a million output tokens
};

// Model and GPUs: a line each.
std::string FormatHardware(const planner::Scenario& scenario);
// The same, and the load.
std::string FormatScenario(const planner::Scenario& scenario);
// What the figures rest on. Not calibrated: said first.
std::string FormatAssumptions(const planner::Scenario& scenario);

std::string FormatSearch(const planner::Scenario& scenario, const planner::SearchResult& result,
                         const ReportOptions& options);
std::string FormatComparison(const planner::Scenario& scenario,
                             const planner::Comparison& comparison, const ReportOptions& options);

// A number with as many digits as it takes to tell neighbours apart: 1,234 or 12.3 or 0.0123.
std::string Figure(double number);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_REPORT_H_
