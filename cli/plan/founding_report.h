// `moe plan --founding` as text. Pure.
//
// Tested by tests/cli/plan/report_test.cc.
#ifndef MOE_CLI_PLAN_FOUNDING_REPORT_H_
#define MOE_CLI_PLAN_FOUNDING_REPORT_H_

#include <string>

#include "planner/founding.h"

namespace moe::cli {

std::string FormatFounding(const planner::Scenario& scenario,
                           const planner::FoundingReport& report);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_FOUNDING_REPORT_H_
