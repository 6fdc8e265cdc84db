// What `moe plan -o json` prints: everything, in base units (bytes, seconds, shares). Pure.
//
// Tested by tests/cli/plan/report_test.cc.
#ifndef MOE_CLI_PLAN_JSON_REPORT_H_
#define MOE_CLI_PLAN_JSON_REPORT_H_

#include <nlohmann/json.hpp>
#include <optional>

#include "planner/compare.h"
#include "planner/founding.h"
#include "planner/search.h"

namespace moe::cli {

nlohmann::json SearchToJson(const planner::Scenario& scenario, const planner::SearchResult& result,
                            std::optional<double> price);
nlohmann::json ComparisonToJson(const planner::Scenario& scenario,
                                const planner::Comparison& comparison, std::optional<double> price);
nlohmann::json FoundingToJson(const planner::Scenario& scenario,
                              const planner::FoundingReport& report);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_JSON_REPORT_H_
