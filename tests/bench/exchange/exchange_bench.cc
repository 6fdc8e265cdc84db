// What the exchange alone costs: milliseconds per step of 16 layers, ranks as processes, experts
// that do nothing, hidden 2048, top-8 of 64 experts, one expert per rank. Prints one line for each
// (owners x rows): the median and the spread of several runs.
//
// Usage: exchange_bench [--ranks=N] [--steps=N] [--runs=N] [--replicated] [--tcp]
// With --tcp each figure is measured over shared memory and over TCP on the loopback device in
// turn, and their ratio is printed: what else the machine does falls on both.
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
#include "worker/exchange/tcp.h"

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
  bool tcp = false;  // measure it beside shared memory
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

void RunLayers(const GroupShape& shape, EpochExchange& group, uint64_t step, int num_rows,
               const std::vector<int32_t>& ids) {
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const int32_t* layer_ids = ids.data() + static_cast<ptrdiff_t>(layer) * num_rows * shape.top_k;
    CheckOk(group.Dispatch(step, layer, num_rows, layer_ids));
    CheckOk(group.Combine().status());
  }
}

// What a rank needs to join: the bootstrap, and over TCP its own listener and all addresses.
struct Meeting {
  std::string bootstrap;
  std::unique_ptr<TcpListener> listener = nullptr;  // null: shared memory
  std::vector<std::string> addresses = {};
};

std::unique_ptr<EpochExchange> MakeRank(const GroupShape& shape, int rank, LocalExperts* experts,
                                        const Meeting& meeting) {
  if (meeting.listener == nullptr) {
    auto group = rank == 0
                     ? SharedMemoryGroup::Create(shape, 1, experts, {})
                     : SharedMemoryGroup::Open(meeting.bootstrap, shape, 1, rank, experts, {});
    CheckOk(group.status());
    return *std::move(group);
  }
  TcpOptions options{.listener = meeting.listener.get(), .addresses = meeting.addresses};
  options.join_deadline = absl::Minutes(1);
  auto group = rank == 0 ? TcpGroup::Create(shape, 1, experts, options)
                         : TcpGroup::Open(meeting.bootstrap, shape, 1, rank, experts, options);
  CheckOk(group.status());
  return *std::move(group);
}

// A line of text between processes.
void WriteLine(int fd, const std::string& text) {
  const std::string line = text + "\n";
  if (write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
}
std::string ReadLine(int fd) {
  std::string line;
  char c = 0;
  while (read(fd, &c, 1) == 1 && c != '\n') line.push_back(c);
  return line;
}

// A child process that runs a rank, and the pipes to it (TCP only).
struct Child {
  pid_t pid = 0;
  int from = -1;  // its address comes from here
  int to = -1;    // the others' addresses and the bootstrap go here
};

// Owners and replicated ranks compute until they are killed: a connection that ends would end the
// group for the others.
void RunOther(const GroupShape& shape, int rank, int num_rows, const Meeting& meeting) {
  IdleExperts experts;
  const std::unique_ptr<EpochExchange> group = MakeRank(shape, rank, &experts, meeting);
  CheckOk(group->Connect());
  const std::vector<int32_t> ids = RandomRoutings(shape, num_rows, shape.replicated ? 1 : rank + 1);
  while (true) {
    auto plan = group->ReceivePlan();
    if (absl::IsUnavailable(plan.status()))
      return;  // another one was killed before: the run is over
    CheckOk(plan.status());
    RunLayers(shape, *group, plan->step, num_rows, ids);
    CheckOk(group->SendResult(plan->step, "tokens"));
  }
}

Child StartOther(const GroupShape& shape, int rank, int num_rows, bool tcp,
                 const std::string& bootstrap) {
  int up[2];
  int down[2];
  if (pipe(up) != 0 || pipe(down) != 0) std::abort();
  const pid_t pid = fork();
  if (pid != 0) {
    close(up[1]);
    close(down[0]);
    return {.pid = pid, .from = up[0], .to = down[1]};
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Meeting meeting{.bootstrap = bootstrap};
  if (tcp) {
    auto listener = TcpListener::Start("127.0.0.1:0");
    CheckOk(listener.status());
    meeting.listener = *std::move(listener);
    WriteLine(up[1], meeting.listener->address());
    for (int i = 0; i < shape.num_ranks; ++i) meeting.addresses.push_back(ReadLine(down[0]));
    meeting.bootstrap = ReadLine(down[0]);
  }
  RunOther(shape, rank, num_rows, meeting);
  _exit(0);
}

// Milliseconds per step.
double RunLeader(EpochExchange& leader, const GroupShape& shape, int num_rows,
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
  return elapsed.count() / options.num_steps;
}

double RunGroup(int num_owners, int num_rows, bool tcp, const BenchOptions& options) {
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
  Meeting meeting;
  std::unique_ptr<EpochExchange> leader;
  if (!tcp) {
    leader = MakeRank(shape, 0, &experts, meeting);
    meeting.bootstrap = leader->bootstrap();
  }
  std::vector<Child> children;
  for (int rank = 1; rank < shape.num_ranks; ++rank) {
    children.push_back(StartOther(shape, rank, num_rows, tcp, meeting.bootstrap));
  }
  if (tcp) {
    // After the forks: a child would inherit the listener without its thread.
    auto listener = TcpListener::Start("127.0.0.1:0");
    CheckOk(listener.status());
    meeting.listener = *std::move(listener);
    meeting.addresses = {meeting.listener->address()};
    for (const Child& child : children) meeting.addresses.push_back(ReadLine(child.from));
    leader = MakeRank(shape, 0, &experts, meeting);
    for (const Child& child : children) {
      for (const std::string& address : meeting.addresses) WriteLine(child.to, address);
      WriteLine(child.to, leader->bootstrap());
    }
  }
  const double milliseconds = RunLeader(*leader, shape, num_rows, options);
  for (const Child& child : children) kill(child.pid, SIGKILL);
  for (const Child& child : children) {
    waitpid(child.pid, nullptr, 0);
    close(child.from);
    close(child.to);
  }
  return milliseconds;
}

void Report(int num_owners, int num_rows, const BenchOptions& options) {
  std::vector<double> shared_memory;
  std::vector<double> tcp;
  for (int i = 0; i < options.num_runs; ++i) {
    shared_memory.push_back(RunGroup(num_owners, num_rows, /*tcp=*/false, options));
    if (options.tcp) tcp.push_back(RunGroup(num_owners, num_rows, /*tcp=*/true, options));
  }
  std::sort(shared_memory.begin(), shared_memory.end());
  std::sort(tcp.begin(), tcp.end());
  const auto print = [](const char* name, const std::vector<double>& runs) {
    std::printf("   %s%7.2f ms/step (%.2f .. %.2f)", name, runs[runs.size() / 2], runs.front(),
                runs.back());
  };
  std::printf("%6d owners x %2d rows", num_owners, num_rows);
  print("", shared_memory);
  if (options.tcp) {
    print("tcp ", tcp);
    std::printf("   x%.1f", tcp[tcp.size() / 2] / shared_memory[shared_memory.size() / 2]);
  }
  std::printf("\n");
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
    } else if (argument == "--tcp") {
      options.tcp = true;
    } else if (!ParseFlag(argument, "ranks", &options.num_ranks) &&
               !ParseFlag(argument, "steps", &options.num_steps) &&
               !ParseFlag(argument, "runs", &options.num_runs)) {
      std::fprintf(
          stderr,
          "usage: exchange_bench [--ranks=N] [--steps=N] [--runs=N] [--replicated] [--tcp]\n");
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
