// A program that `moe serve` runs: started in a process group of its own (a Ctrl-C reaches only
// `moe`, which then ends its children in order) and killed by the kernel if `moe` dies.
#ifndef MOE_CLI_CHILD_PROCESS_H_
#define MOE_CLI_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moe::cli {

// Single-threaded use, from the thread that called Start: the kernel ties the child's life to it.
class ChildProcess {
 public:
  // `environment` entries ("NAME=value") are added to ours; secrets go there, not into `args`.
  static absl::StatusOr<ChildProcess> Start(const std::string& program,
                                            const std::vector<std::string>& args,
                                            const std::vector<std::string>& environment);
  ChildProcess(ChildProcess&& other) noexcept : pid_(other.pid_), exit_code_(other.exit_code_) {
    other.pid_ = -1;
  }
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();  // kill -9 and wait, if it still runs

  pid_t pid() const { return pid_; }
  void Signal(int signal);
  // Whether it has ended; does not block.
  bool Poll();
  // After Poll returned true: its exit code, or 128 + the signal that ended it.
  int exit_code() const { return exit_code_; }

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;  // -1 when it has been reaped
  int exit_code_ = 0;
};

}  // namespace moe::cli

#endif  // MOE_CLI_CHILD_PROCESS_H_
