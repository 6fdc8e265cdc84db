// `moe-controller local`: one group whose workers are processes of this machine, started and
// replaced by this one.
#ifndef MOE_CONTROLLER_LOCAL_H_
#define MOE_CONTROLLER_LOCAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"

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
  std::vector<std::string> worker_args;
  bool verbose = false;
};

// Adds the subcommand; `flags` must outlive the parsing.
CLI::App* AddLocal(CLI::App* parent, LocalFlags* flags);

// Leads the group until a signal is readable from `signal_fd`, or the group has failed. The exit
// code.
int RunLocal(LocalFlags flags, int signal_fd);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_LOCAL_H_
