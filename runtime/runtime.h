// Where worker processes come from: processes of this machine (LocalProcesses) or pods
// (PodRuntime).
#ifndef MOE_RUNTIME_RUNTIME_H_
#define MOE_RUNTIME_RUNTIME_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moe::runtime {

struct WorkerExit {
  int slot = 0;
  std::string worker_id;
  std::string description;            // "exited with status 1" or "was killed by signal 9 (Killed)"
  std::string last_lines;             // of its log; may be empty
  std::optional<int> exit_code = {};  // empty: killed by a signal, or not known
};

// Methods are thread-safe.
class Runtime {
 public:
  virtual ~Runtime() = default;

  // Called on a thread of the runtime; must not block and must not call the runtime.
  struct Callbacks {
    // Once for each process that was started, when it has ended; possibly before StartWorker
    // returns.
    std::function<void(const WorkerExit&)> on_exit;
    // A process that StartWorker did not return. Always before its on_exit.
    std::function<void(int slot, const std::string& worker_id)> on_started;
  };
  // Before the first StartWorker. The callbacks are used until StopAll returns.
  virtual void SetCallbacks(Callbacks callbacks) = 0;

  // Starts a process for `slot` and returns its worker id, which no other process gets; nullopt:
  // the process was asked for, and on_started will tell.
  virtual absl::StatusOr<std::optional<std::string>> StartWorker(int slot) = 0;

  // Ends the process at once, without a chance to clean up. Nothing happens if it has ended.
  // `reason`: for people, "it sent no heartbeat for 10s".
  virtual void Kill(std::string_view worker_id, std::string_view reason) = 0;

  // Asks all processes to end, kills what is left after `grace`, and returns when none is left.
  // Without a grace none is asked. Nothing can be started afterwards.
  virtual void StopAll(absl::Duration grace) = 0;
};

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_RUNTIME_H_
