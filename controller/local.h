// `moe-controller local`: one group whose workers are processes of this machine, started and
// replaced by this one.
#ifndef MOE_CONTROLLER_LOCAL_H_
#define MOE_CONTROLLER_LOCAL_H_

#include "CLI/CLI.hpp"
#include "controller/local_group.h"

namespace moe::controller {

// Adds the subcommand; `flags` must outlive the parsing.
CLI::App* AddLocal(CLI::App* parent, LocalFlags* flags);

// Leads the group until a signal is readable from `signal_fd`, or the group has failed. The exit
// code.
int RunLocal(LocalFlags flags, int signal_fd);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_LOCAL_H_
