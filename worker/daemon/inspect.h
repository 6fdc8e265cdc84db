// What a model needs, told before any GPU is taken: `moe-worker --inspect`.
//
// Tested by tests/worker/daemon/inspect_test.cc.
#ifndef MOE_WORKER_DAEMON_INSPECT_H_
#define MOE_WORKER_DAEMON_INSPECT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace moe::worker {

struct ModelFacts {
  int num_layers = 0;
  int num_experts = 0;
  int top_k = 0;
  uint64_t weight_bytes = 0;  // as bf16, all tensors that the model uses
  // What a layout is planned from, beside these.
  int hidden = 0;
  int intermediate = 0;  // of one expert
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;
  bool tied_embeddings = false;
};

// Reads the folder's JSON files and headers, and checks every tensor's name, type and shape. Errors
// as Checkpoint::Open.
absl::StatusOr<ModelFacts> InspectModel(const std::string& model_dir);

// {"num_layers":..,"num_experts":..,"top_k":..,"weight_bytes":..,"shape":{"hidden":..,..}} in one
// line. Operators from before "shape" read the rest and pass over it.
std::string ToJsonLine(const ModelFacts& facts);

// Inspects, writes the line (or the error) to stdout (stderr) and to `termination_log`, which the
// kubelet reads, if that file exists. Returns the exit code.
int RunInspect(const std::string& model_dir,
               const std::string& termination_log = "/dev/termination-log");

}  // namespace moe::worker

#endif  // MOE_WORKER_DAEMON_INSPECT_H_
