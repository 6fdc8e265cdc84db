// The ranks of a group beside rank 0, as child processes that end with this one.
#ifndef MOE_TESTS_BENCH_RANKS_RANK_PROCESSES_H_
#define MOE_TESTS_BENCH_RANKS_RANK_PROCESSES_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace moe::bench {

class RankProcesses {
 public:
  // Forks ranks 1 .. num_ranks - 1. Each waits for Start, then calls `run` with its rank and the
  // bootstrap, and exits. REQUIRES: this process has one thread.
  RankProcesses(int num_ranks, const std::function<void(int rank, const std::string&)>& run);
  // Waits for them: ranks that serve until they are told, or ended, have to be so before.
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  void Start(const std::string& bootstrap);
  // Ends them at whatever they are at.
  void Kill();

 private:
  std::vector<int> bootstrap_fds_;
  std::vector<pid_t> children_;
};

}  // namespace moe::bench

#endif  // MOE_TESTS_BENCH_RANKS_RANK_PROCESSES_H_
