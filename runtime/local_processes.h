// Workers as processes of this machine.
//
// One thread starts and watches them all: it lives until the last one has ended, since the kernel
// kills a child when the thread that started it ends. So nobody stays behind, also when this
// process is killed. The end of a process is seen at once (pidfd), not at the next poll.
//
// Tested by tests/runtime/local_processes_test.cc.
#ifndef MOE_RUNTIME_LOCAL_PROCESSES_H_
#define MOE_RUNTIME_LOCAL_PROCESSES_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/runtime.h"

namespace moe::runtime {

struct LocalProcessesOptions {
  // The command line of the worker for `slot`; the first string is the program's path.
  std::function<std::vector<std::string>(int slot, const std::string& worker_id)> command;
  // Takes the workers' lines that people should see, "worker 3 | ..."; called on the watching
  // thread. Empty: stderr.
  std::function<void(std::string_view line)> show_line;
  // Show all lines, not only warnings, errors and what a failed worker wrote last.
  bool verbose = false;
  size_t num_last_lines = 20;
  size_t max_line_bytes = 2000;
};

class LocalProcesses : public Runtime {
 public:
  static absl::StatusOr<std::unique_ptr<LocalProcesses>> Create(LocalProcessesOptions options);

  // StopAll(absl::ZeroDuration()) if not yet done.
  ~LocalProcesses() override;

  void SetCallbacks(Callbacks callbacks) override;
  absl::StatusOr<std::optional<std::string>> StartWorker(int slot) override;
  void Kill(std::string_view worker_id, std::string_view reason) override;
  void StopAll(absl::Duration grace) override;

  // The process of a worker, or -1 when it has ended.
  int PidOf(std::string_view worker_id) const;

 private:
  class Impl;
  explicit LocalProcesses(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// "exited with status 1", "was killed by signal 9 (Killed)"; from waitpid's status.
std::string DescribeExit(int wait_status);

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_LOCAL_PROCESSES_H_
