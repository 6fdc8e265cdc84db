// The group of `moe-controller local`, from its flags: what the coordinator must know of it, and
// how its workers are started. Pure.
//
// Tested by tests/controller/local_group_test.cc.
#ifndef MOE_CONTROLLER_LOCAL_GROUP_H_
#define MOE_CONTROLLER_LOCAL_GROUP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "controller/coordinator/group.h"

namespace moe::controller {

struct LocalFlags {
  std::string model;
  int expert_parallel = 0;
  int attention_ranks = 1;
  std::string attention = "sharded";
  uint32_t threads = 1;
  uint32_t max_sequences = 64;
  uint32_t max_step_tokens = 512;
  uint32_t max_queue = 256;
  uint64_t kv_bytes = uint64_t{256} << 20;
  uint32_t max_context = 0;
  double step_deadline = 10;
  std::string run_dir;
  std::string worker;
  std::string weights;
  std::string kernel_level = "auto";
  std::string term_file;
  std::vector<int> gpu_of_rank;  // [expert_parallel], or empty: CPUs
  std::vector<std::string> worker_args;
  bool verbose = false;
};

// InvalidArgument names the flag that contradicts another or the model.
absl::StatusOr<coordinator::GroupOptions> MakeLocalGroup(const LocalFlags& flags, int num_experts,
                                                         int num_layers);

// The command line of the worker of `slot`; `program` is its path.
std::vector<std::string> LocalWorkerCommand(const LocalFlags& flags, const std::string& program,
                                            int slot, const std::string& worker_id);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_LOCAL_GROUP_H_
