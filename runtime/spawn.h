// Starts one child process that can't outlive its parent.
#ifndef MOE_RUNTIME_SPAWN_H_
#define MOE_RUNTIME_SPAWN_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moe::runtime {

struct SpawnedProcess {
  pid_t pid = -1;
  int pidfd = -1;   // owned by the caller
  int log_fd = -1;  // read end of the pipe that is its stdout and stderr; non-blocking; owned too
};

// Runs arguments[0], a path, with this process's environment, stdin empty, default signal handling
// and no other file descriptors, in a process group of its own (a terminal's Ctrl-C is for the
// controller). The kernel kills it when the THREAD that called Spawn ends, however that happens, so
// call it on a thread that lives as long as its children may.
// NotFound or another errno status if the program can't be executed.
absl::StatusOr<SpawnedProcess> Spawn(const std::vector<std::string>& arguments);

}  // namespace moe::runtime

#endif  // MOE_RUNTIME_SPAWN_H_
