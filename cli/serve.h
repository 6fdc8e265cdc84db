// `moe serve`: runs controller, workers and gateway on this machine until told to stop.
//
// Tested by tests/system/serve_test.py.
#ifndef MOE_CLI_SERVE_H_
#define MOE_CLI_SERVE_H_

#include <string>

#include "CLI/CLI.hpp"
#include "cli/layout.h"

namespace moe::cli {

struct ServeOptions {
  std::string model_dir;
  LayoutRequest layout;
  std::string expert_parallel = "auto";
  std::string attention_ranks = "auto";
  std::string attention = "sharded";
  std::string kv_memory = "auto";
  std::string kernel_level = "auto";
  std::string backend = "auto";
  double gpu_memory_share = 0.9;
  int threads = 0;  // 0: all cores
  int max_queue = 256;
  double step_deadline_seconds = 10;
  int drain_seconds = 60;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string api_key;
  std::string served_model_name;
  bool verbose = false;
};

// Adds the subcommand; the options are filled when it is parsed. `options` must outlive `app`.
CLI::App* AddServe(CLI::App* app, ServeOptions* options);

// Returns the exit code of `moe`.
int RunServe(const ServeOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_SERVE_H_
