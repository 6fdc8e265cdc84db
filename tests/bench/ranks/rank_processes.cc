#include "tests/bench/ranks/rank_processes.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

namespace moe::bench {
namespace {

std::string ReadAll(int fd) {
  std::string text;
  char buffer[512];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

}  // namespace

RankProcesses::RankProcesses(int num_ranks,
                             const std::function<void(int rank, const std::string&)>& run) {
  for (int rank = 1; rank < num_ranks; ++rank) {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    const pid_t pid = fork();
    if (pid < 0) std::abort();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (const int fd : bootstrap_fds_) close(fd);
      close(ends[1]);
      const std::string bootstrap = ReadAll(ends[0]);
      // Empty: rank 0 failed, and said why.
      if (!bootstrap.empty()) run(rank, bootstrap);
      _exit(0);
    }
    close(ends[0]);
    bootstrap_fds_.push_back(ends[1]);
    children_.push_back(pid);
  }
}

RankProcesses::~RankProcesses() {
  for (const int fd : bootstrap_fds_) close(fd);
  for (const pid_t child : children_) waitpid(child, nullptr, 0);
}

void RankProcesses::Start(const std::string& bootstrap) {
  for (const int fd : bootstrap_fds_) {
    if (write(fd, bootstrap.data(), bootstrap.size()) != static_cast<ssize_t>(bootstrap.size())) {
      std::abort();
    }
    close(fd);
  }
  bootstrap_fds_.clear();
}

void RankProcesses::Kill() {
  for (const pid_t child : children_) kill(child, SIGKILL);
}

}  // namespace moe::bench
