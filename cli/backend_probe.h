// Asks moe-worker which backend it would compute with: `moe` itself is built without CUDA.
//
// Tested by tests/cli/backend_probe_test.cc.
#ifndef MOE_CLI_BACKEND_PROBE_H_
#define MOE_CLI_BACKEND_PROBE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/layout.h"

namespace moe::cli {

struct BackendProbe {
  bool cuda = false;
  std::string reason;  // the GPU's name, or why none is used
  int num_gpus = 0;    // that workers see; 0 with cpu
};

// What `moe-worker --probe` printed. FailedPrecondition with its words where it found nothing to
// compute with.
absl::StatusOr<BackendProbe> ParseProbe(absl::string_view output);

// What a run of `request` computes on where `probe` was found by --backend auto: the GPUs, unless
// they can't run it; then the reason says why. Pure.
BackendProbe FitAuto(const BackendProbe& probe, const LayoutRequest& request);

// Runs `worker --probe --backend BACKEND`. Errors as above, and where it can't be run.
absl::StatusOr<BackendProbe> ProbeBackend(const std::string& worker, const std::string& backend);

}  // namespace moe::cli

#endif  // MOE_CLI_BACKEND_PROBE_H_
