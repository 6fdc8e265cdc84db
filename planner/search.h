// Every layout of a scenario, the best first.
//
// Exhaustive over expert ranks that divide the experts, tensor parts within a node, pipeline stages
// that divide the layers, attention ranks, exchanges, one or two copies of experts, none or one
// spare; as many groups as the GPUs hold. Pruned by what cannot be better: fewer groups than fit,
// and whatever fails CheckSizes or CheckMemory, which come before any time is computed.
//
// Tested by tests/planner/search_test.cc.
#ifndef MOE_PLANNER_SEARCH_H_
#define MOE_PLANNER_SEARCH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/prediction.h"

namespace moe::planner {

struct Refusal {
  std::string layout = {};
  std::string reason = {};
};

struct SearchResult {
  std::vector<Prediction> ranked = {};  // best first, by IsBetter
  // Layouts that cannot work, one for each kind of reason and strategy, in the order of the search.
  std::vector<Refusal> refused = {};
  int num_layouts = 0;  // looked at, refused ones included
};

// What Search looks at, in its order. REQUIRES: the scenario passed CheckScenario.
std::vector<Layout> AllLayouts(const Scenario& scenario);

// Fails with CheckScenario's error. `ranked` may be empty: then `refused` says why.
absl::StatusOr<SearchResult> Search(const Scenario& scenario);

// The same for given layouts only.
absl::StatusOr<SearchResult> Rank(const Scenario& scenario, const std::vector<Layout>& layouts);

}  // namespace moe::planner

#endif  // MOE_PLANNER_SEARCH_H_
