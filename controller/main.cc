// moe-controller: leads groups of expert-parallel workers and keeps them complete; on one machine
// (local) or as the operator of a cluster (kubernetes).
#include <signal.h>
#include <sys/signalfd.h>

#include <cstdlib>
#include <utility>

#include "CLI/CLI.hpp"
#include "controller/kubernetes.h"
#include "controller/local.h"

int main(int argc, char** argv) {
  // Blocked before any thread starts, so that every thread inherits it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);

  moe::controller::LocalFlags local_flags;
  moe::controller::KubernetesFlags kubernetes_flags;
  CLI::App app{"Leads groups of expert-parallel workers and keeps them complete."};
  app.require_subcommand(1);
  const CLI::App* local = moe::controller::AddLocal(&app, &local_flags);
  moe::controller::AddKubernetes(&app, &kubernetes_flags);
  CLI11_PARSE(app, argc, argv);
  if (local->parsed()) return moe::controller::RunLocal(std::move(local_flags), signal_fd);
  return moe::controller::RunKubernetes(kubernetes_flags, signal_fd);
}
