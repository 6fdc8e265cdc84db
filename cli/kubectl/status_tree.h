// One MoEDeployment as a tree for people: groups, ranks, nodes, experts, and each condition that is
// not as it should be, with what to do about it. Pure.
//
// Tested by tests/cli/kubectl/status_tree_test.cc.
#ifndef MOE_CLI_KUBECTL_STATUS_TREE_H_
#define MOE_CLI_KUBECTL_STATUS_TREE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "controller/api/parse.h"

namespace moe::cli {

struct StatusTreeOptions {
  // Ranks of a group that are all alike on a node take one line; with `all_ranks` each has its own.
  bool all_ranks = false;
};

std::string FormatStatusTree(const api::ParsedDeployment& parsed, const StatusTreeOptions& options);

// What a person can do about a condition with this reason; empty where its message says all.
absl::string_view AdviceFor(absl::string_view reason);

// Whether a condition is one to worry about: Ready=False is, Failed=False is not.
bool IsTrouble(const api::Condition& condition);

}  // namespace moe::cli

#endif  // MOE_CLI_KUBECTL_STATUS_TREE_H_
