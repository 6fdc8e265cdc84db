// Several workers in one pod: `moe-worker --processes N` starts itself N times, once for each GPU,
// and stays as the pod's first process.
//
// A pod is replaced as a whole, so its processes end together. When one ends abnormally the others
// are killed at once, and the last words of the supervisor, which become the pod's termination
// message, are which one it was, how it ended and what it wrote last. When one ends well (it was
// dismissed), the others are asked to.
//
// Nobody outlives the supervisor: the kernel kills the processes with it.
//
// Tested by tests/worker/daemon/supervisor_test.cc, which runs real processes.
#ifndef MOE_WORKER_DAEMON_SUPERVISOR_H_
#define MOE_WORKER_DAEMON_SUPERVISOR_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "runtime/local_processes.h"

namespace moe::worker {

struct SupervisorOptions {
  int num_processes = 0;
  // The command line of a process; the first string is the program's path.
  std::function<std::vector<std::string>(int process)> command;
  // Takes each line that the processes write, "worker 3 | ...". Empty: stderr.
  std::function<void(std::string_view line)> show_line;
};

// Stop is thread-safe; Wait is for one thread.
class Supervisor {
 public:
  // Starts all processes. If one can't be started, none is left and the status says why.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Start(SupervisorOptions options);

  // Kills who is left.
  ~Supervisor();

  // SIGTERM to all; does not wait.
  void Stop();

  // Returns when no process is left. Aborted if one ended abnormally: "process 2 was killed by
  // signal 9 (Killed)" after what it wrote last, of which the end is kept.
  absl::Status Wait();

  // After Wait: the code that the process that ended abnormally ended with, 1 if it was killed; 0
  // if none did.
  int exit_code() const;

 private:
  Supervisor() = default;

  void OnExit(const runtime::WorkerExit& exit);
  // What Wait has to act on.
  bool ShouldStop() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stop_ || num_ended_ > 0 || failure_.has_value();
  }
  bool IsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return failure_.has_value() || num_ended_ == num_processes_;
  }

  int num_processes_ = 0;
  mutable absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  int num_ended_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<runtime::WorkerExit> failure_ ABSL_GUARDED_BY(mu_);  // the first
  std::unique_ptr<runtime::LocalProcesses> processes_;  // last: its thread uses the others
};

// ---- What a process of several makes of the flags that it shares with the others ----

// "HOST:PORT" with the port of process `process` (identity/worker_id.h); 0 stays 0.
// InvalidArgument for anything else, a port above 65535 included.
absl::StatusOr<std::string> AddressOfProcess(absl::string_view address, int process);

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_SUPERVISOR_H_
