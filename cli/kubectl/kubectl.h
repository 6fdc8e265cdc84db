// Runs `kubectl`, which knows clusters, users and their credentials, so that nothing here has to.
//
// Always with a vector of arguments, never through a shell.
//
// Tested by tests/cli/kubectl/kubectl_test.cc.
#ifndef MOE_CLI_KUBECTL_KUBECTL_H_
#define MOE_CLI_KUBECTL_KUBECTL_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace moe::cli {

struct KubectlOptions {
  std::string program = "kubectl";  // found in PATH
  std::string context;              // empty: kubectl's own
  std::string ns;                   // empty: kubectl's own
};

// Single-threaded use.
class Kubectl {
 public:
  explicit Kubectl(KubectlOptions options) : options_(std::move(options)) {}

  // What `kubectl ARGS` prints, given `input`. Errors: NotFound if there is no kubectl; Internal
  // with what it wrote to its standard error if it failed; ResourceExhausted if it printed more
  // than 64 MiB.
  absl::StatusOr<std::string> Run(const std::vector<std::string>& args,
                                  const std::string& input = "") const;
  // kubectl writes to our own output and reads nothing; its exit code.
  absl::StatusOr<int> Show(const std::vector<std::string>& args) const;

 private:
  std::vector<std::string> Command(const std::vector<std::string>& args) const;

  const KubectlOptions options_;
};

}  // namespace moe::cli

#endif  // MOE_CLI_KUBECTL_KUBECTL_H_
