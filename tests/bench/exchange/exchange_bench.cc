// What the exchange alone costs: milliseconds per step of 16 layers, ranks as processes, experts
// that do nothing, hidden 2048, top-8 of 64 experts, one expert per rank. Prints one line for each
// (owners x rows): the median and the spread of several runs.
//
// Usage: exchange_bench [--ranks=N] [--steps=N] [--runs=N] [--replicated]
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "worker/exchange/shared_memory.h"

namespace moe::exchange {
namespace {

class IdleExperts : public LocalExperts {
 public:
  void Run(int /*layer*/, absl::Span<const RoutedRow> /*rows*/, const kernels::BFloat16* /*x*/,
           kernels::BFloat16* /*out*/) override {}
};

struct BenchOptions {
  int num_ranks = 64;
  int num_steps = 100;  // of one run, after as many for warming up / 5
  int num_runs = 5;
  bool replicated = false;
};

void CheckOk(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::abort();
}

// expert_ids [num_layers, num_rows, top_k]: uniform, without repetition in a row.
std::vector<int32_t> RandomRoutings(const GroupShape& shape, int num_rows, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> experts(shape.num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  std::vector<int32_t> ids;
  for (int row = 0; row < shape.num_layers * num_rows; ++row) {
    std::shuffle(experts.begin(), experts.end(), random);
    ids.insert(ids.end(), experts.begin(), experts.begin() + shape.top_k);
  }
  return ids;
}

void RunLayers(const GroupShape& shape, SharedMemoryGroup& group, uint64_t step, int num_rows,
               const std::vector<int32_t>& ids) {
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const int32_t* layer_ids = ids.data() + static_cast<ptrdiff_t>(layer) * num_rows * shape.top_k;
    CheckOk(group.Dispatch(step, layer, num_rows, layer_ids));
    CheckOk(group.Combine().status());
  }
}

// Owners and replicated ranks compute until a plan that says "end".
int RunOther(const std::string& bootstrap, const GroupShape& shape, int rank, int num_rows) {
  IdleExperts experts;
  auto group = SharedMemoryGroup::Open(bootstrap, shape, 1, rank, &experts, {});
  CheckOk(group.status());
  CheckOk((*group)->Connect());
  const std::vector<int32_t> ids = RandomRoutings(shape, num_rows, shape.replicated ? 1 : rank + 1);
  while (true) {
    auto plan = (*group)->ReceivePlan();
    CheckOk(plan.status());
    if (plan->plan == "end") return 0;
    RunLayers(shape, **group, plan->step, num_rows, ids);
    CheckOk((*group)->SendResult(plan->step, "tokens"));
  }
}

// Milliseconds per step.
double RunLeader(SharedMemoryGroup& leader, const GroupShape& shape, int num_rows,
                 const BenchOptions& options) {
  CheckOk(leader.Connect());
  const std::vector<int32_t> ids = RandomRoutings(shape, num_rows, 1);
  std::vector<int> named;
  const int num_computing = shape.replicated ? shape.num_ranks : shape.num_attention_ranks;
  for (int rank = 1; rank < num_computing; ++rank) named.push_back(rank);
  const std::string plan(200, 'p');
  uint64_t step = 0;
  const auto run = [&](int num_steps) {
    for (int i = 0; i < num_steps; ++i) {
      CheckOk(leader.SendPlan(++step, plan, named));
      RunLayers(shape, leader, step, num_rows, ids);
      CheckOk(leader.ReceiveResults(step, named).status());
    }
  };
  run(options.num_steps / 5 + 1);
  const auto start = std::chrono::steady_clock::now();
  run(options.num_steps);
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  std::vector<int> all;
  for (int rank = 1; rank < shape.num_ranks; ++rank) all.push_back(rank);
  CheckOk(leader.SendPlan(++step, "end", all));
  return elapsed.count() / options.num_steps;
}

double RunGroup(int num_owners, int num_rows, const BenchOptions& options) {
  GroupShape shape;
  shape.num_ranks = options.num_ranks;
  shape.num_attention_ranks = num_owners;
  shape.replicated = options.replicated;
  shape.num_layers = 16;
  shape.num_experts = 64;
  shape.hidden = 2048;
  shape.top_k = 8;
  shape.max_rows = 64;
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    shape.rank_of_expert.push_back(expert % shape.num_ranks);
  }
  IdleExperts experts;
  auto leader = SharedMemoryGroup::Create(shape, 1, &experts, {});
  CheckOk(leader.status());
  std::vector<pid_t> children;
  for (int rank = 1; rank < shape.num_ranks; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(RunOther((*leader)->bootstrap(), shape, rank, num_rows));
    }
    children.push_back(pid);
  }
  const double milliseconds = RunLeader(**leader, shape, num_rows, options);
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  return milliseconds;
}

void Report(int num_owners, int num_rows, const BenchOptions& options) {
  std::vector<double> runs;
  runs.reserve(options.num_runs);
  for (int i = 0; i < options.num_runs; ++i) {
    runs.push_back(RunGroup(num_owners, num_rows, options));
  }
  std::sort(runs.begin(), runs.end());
  std::printf("%6d owners x %2d rows   %7.2f ms/step   (%.2f .. %.2f)\n", num_owners, num_rows,
              runs[runs.size() / 2], runs.front(), runs.back());
  std::fflush(stdout);
}

bool ParseFlag(absl::string_view argument, absl::string_view name, int* value) {
  const std::string prefix = absl::StrCat("--", name, "=");
  return absl::StartsWith(argument, prefix) &&
         absl::SimpleAtoi(argument.substr(prefix.size()), value) && *value > 0;
}

int Main(int argc, char** argv) {
  BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--replicated") {
      options.replicated = true;
    } else if (!ParseFlag(argument, "ranks", &options.num_ranks) &&
               !ParseFlag(argument, "steps", &options.num_steps) &&
               !ParseFlag(argument, "runs", &options.num_runs)) {
      std::fprintf(stderr,
                   "usage: exchange_bench [--ranks=N] [--steps=N] [--runs=N] [--replicated]\n");
      return 2;
    }
  }
  std::printf("%d ranks, 16 layers, %ld processors\n", options.num_ranks,
              sysconf(_SC_NPROCESSORS_ONLN));
  for (const int num_rows : {1, 8, 64}) Report(1, num_rows, options);
  if (options.replicated) return 0;
  if (options.num_ranks >= 2) Report(2, 32, options);
  if (options.num_ranks >= 8) Report(8, 8, options);
  return 0;
}

}  // namespace
}  // namespace moe::exchange

int main(int argc, char** argv) { return moe::exchange::Main(argc, argv); }
