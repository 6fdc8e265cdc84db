// `moe status`, `moe experts` and `moe generate`: looking at a running deployment through its
// gateway.
//
// Tested by tests/system/serve_test.py.
#ifndef MOE_CLI_INSPECT_H_
#define MOE_CLI_INSPECT_H_

#include "CLI/CLI.hpp"
#include "cli/api_client.h"

namespace moe::cli {

struct InspectOptions {
  ApiOptions api;
  bool json = false;
  ChatRequest chat;
};

struct InspectCommands {
  CLI::App* status = nullptr;
  CLI::App* experts = nullptr;
  CLI::App* generate = nullptr;
};

// Adds the subcommands; `options` is filled when one is parsed and must outlive `app`.
InspectCommands AddInspect(CLI::App* app, InspectOptions* options);

// Each returns the exit code of `moe`.
int RunStatus(const InspectOptions& options);
int RunExperts(const InspectOptions& options);
int RunGenerate(const InspectOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_INSPECT_H_
