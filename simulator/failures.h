// What breaks, and when. Ranks are counted over all groups: rank 70 of groups of 64 is rank 6 of
// group 1. GPUs fill nodes in the order of ranks.
//
//   20s:rank=3   the process of rank 3 ends; its connections break at once
//   20s:hang=3   it says and computes nothing more
//   20s:node=2   all ranks with a GPU on node 2 are gone, and nothing says so
//
// Tested by tests/simulator/failures_test.cc.
#ifndef MOE_SIMULATOR_FAILURES_H_
#define MOE_SIMULATOR_FAILURES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "planner/hardware.h"
#include "planner/layout.h"

namespace moe::simulator {

struct Failure {
  enum class Kind { kRank, kHang, kNode };
  absl::Duration at = absl::ZeroDuration();  // since the start of the arrivals
  Kind kind = Kind::kRank;
  int index = 0;  // of the rank, or of the node
};

// InvalidArgument says what can be written.
absl::StatusOr<Failure> ParseFailure(absl::string_view text);
std::string DescribeFailure(const Failure& failure);

// The ranks that it hits, ascending. InvalidArgument: there is no such rank or node.
absl::StatusOr<std::vector<int>> RanksOfFailure(const Failure& failure,
                                                const planner::Layout& layout,
                                                const planner::Network& network);

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_FAILURES_H_
