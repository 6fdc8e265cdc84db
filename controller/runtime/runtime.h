// Where worker processes come from: processes of this machine now, pods later.
#ifndef MOE_CONTROLLER_RUNTIME_RUNTIME_H_
#define MOE_CONTROLLER_RUNTIME_RUNTIME_H_

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moe::runtime {

struct WorkerExit {
  int slot = 0;
  std::string worker_id;
  std::string description;  // "exited with status 1" or "was killed by signal 9 (Killed)"
  std::string last_lines;   // of its log; may be empty
};

// Methods are thread-safe.
class Runtime {
 public:
  virtual ~Runtime() = default;

  // Called once for each process that StartWorker returned, when it has ended, on a thread of the
  // runtime; possibly before StartWorker returns. Must not block and must not call the runtime.
  using ExitCallback = std::function<void(const WorkerExit&)>;
  // Before the first StartWorker. The callback is used until StopAll returns.
  virtual void SetExitCallback(ExitCallback callback) = 0;

  // Starts a process for `slot` and returns its worker id, which no other process gets.
  virtual absl::StatusOr<std::string> StartWorker(int slot) = 0;

  // Ends the process at once, without a chance to clean up. Nothing happens if it has ended.
  virtual void Kill(std::string_view worker_id) = 0;

  // Asks all processes to end, kills what is left after `grace`, and returns when none is left.
  // Nothing can be started afterwards.
  virtual void StopAll(absl::Duration grace) = 0;
};

}  // namespace moe::runtime

#endif  // MOE_CONTROLLER_RUNTIME_RUNTIME_H_
