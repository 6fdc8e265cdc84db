// `kubectl moe status`, `experts`, `generate` and `logs`.
//
// Tested by tests/cli/kubectl/commands_test.cc, with a kubectl that is a script.
#ifndef MOE_CLI_KUBECTL_COMMANDS_H_
#define MOE_CLI_KUBECTL_COMMANDS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/kubectl/kubectl.h"

namespace moe::cli {

struct KubectlMoeOptions {
  KubectlOptions kubectl;
  bool all_namespaces = false;
  bool json = false;
  std::string name;        // of the MoEDeployment
  bool all_ranks = false;  // status
  int group = -1;          // experts: all groups; logs: that of the last failure
  int rank = -1;           // logs: that of the last failure
  bool follow = false;     // logs
  std::string question;    // generate
  int max_tokens = 256;
  double temperature = 0;
};

// What each prints, or why it can't. A deployment whose gateway wants an API key can't be asked
// through the API server, which keeps the Authorization header for itself; the error says what to
// do instead.
absl::StatusOr<std::string> StatusText(const KubectlMoeOptions& options);
absl::StatusOr<std::string> ExpertsText(const KubectlMoeOptions& options);
absl::StatusOr<std::string> GenerateText(const KubectlMoeOptions& options);
// kubectl prints the log itself; returns its exit code. Where the pod is gone, what is kept of its
// log in the status is printed.
absl::StatusOr<int> ShowLogs(const KubectlMoeOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_KUBECTL_COMMANDS_H_
