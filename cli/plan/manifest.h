// The MoEDeployment that says a layout, as YAML to apply. Pure.
//
// Tested by tests/cli/plan/manifest_test.cc against the CRD's own parser.
#ifndef MOE_CLI_PLAN_MANIFEST_H_
#define MOE_CLI_PLAN_MANIFEST_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "planner/prediction.h"
#include "planner/search.h"

namespace moe::cli {

// Whether a MoEDeployment can say the layout. FailedPrecondition says what it can't, and which of
// its limits is passed.
absl::Status CheckExpressible(const planner::Layout& layout);

// The best ranked layout that a MoEDeployment can say. Fails with the reason of the best one if
// there is none.
absl::StatusOr<planner::Prediction> BestExpressible(const planner::SearchResult& result);

// REQUIRES: CheckExpressible(prediction.layout).ok().
std::string FormatManifest(const planner::Scenario& scenario, const planner::Prediction& prediction,
                           const planner::SearchResult& result);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_MANIFEST_H_
