// Ranks that die, and those that keep others from waking: what the survivors get. Ranks are forked
// processes where one is killed, else threads. The rest is in epoch_exchange_fault_test.cc.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"
#include "worker/exchange/shared_memory.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// Long enough for a live rank to answer on a busy machine.
constexpr SharedMemoryOptions kShortDeadline{.step_deadline = absl::Seconds(1),
                                             .join_deadline = absl::Minutes(2)};

// Every row to every rank.
std::vector<int32_t> AllExperts(const GroupShape& shape) {
  std::vector<int32_t> ids;
  for (int row = 0; row < shape.max_rows; ++row) {
    for (int expert = 0; expert < shape.top_k; ++expert) ids.push_back(expert);
  }
  return ids;
}

// ---- Deadlines

// The stopped rank keeps its core's turn, and the ranks after it wake all the same.
TEST(SharedMemoryDeadlineTest, CombineNamesTheRankThatKeepsItsTurn) {
  const GroupShape shape = SmallShape(9, 1);
  SharedMemoryOptions options = kShortDeadline;
  options.cores = {AllowedCores()[0]};
  ThreadGroup threads(shape, options);
  threads.ConnectAll();
  const std::vector<int32_t> ids = AllExperts(shape);
  threads.RunAll([&](int rank, EpochExchange& group) {
    if (rank == 1) return;
    if (rank != 0) {
      EXPECT_EQ(group.ReceivePlan().status().code(), absl::StatusCode::kAborted);
      return;
    }
    ASSERT_TRUE(group.SendPlan(1, "", {}).ok());
    ASSERT_TRUE(group.Dispatch(1, 0, shape.max_rows, ids.data()).ok());
    EXPECT_EQ(group.Combine().status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(group.suspect(), 1);
    for (int other = 2; other < shape.num_ranks; ++other) threads.ranks[other]->Abort("done");
  });
}

TEST(SharedMemoryDeadlineTest, AWakeUpThatGotLostIsMadeUpFor) {
  const GroupShape shape = SmallShape(2, 1);
  ThreadGroup threads(shape, {.step_deadline = absl::Seconds(4)});
  threads.ConnectAll();
  const std::vector<int32_t> ids = AllExperts(shape);
  std::thread server([&] {
    EXPECT_EQ(threads.ranks[1]->ReceivePlan().status().code(), absl::StatusCode::kAborted);
  });
  while ((threads.segment->bells()->sleeping.load() & 2u) == 0) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  threads.segment->bells()->sleeping.store(0);  // as a ringer that died before its system call
  EpochExchange& leader = *threads.ranks[0];
  ASSERT_TRUE(leader.SendPlan(1, "", {}).ok());
  ASSERT_TRUE(leader.Dispatch(1, 0, 1, ids.data()).ok());
  EXPECT_TRUE(leader.Combine().ok());
  threads.ranks[1]->Abort("done");
  server.join();
}

// ---- Processes that die

// Forks a rank that runs `body` and exits with its value.
pid_t ForkRank(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  return pid;
}

int WaitFor(pid_t pid) {
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

// Opens and connects rank `rank`, then serves until the leader's memory says otherwise.
int ServeAsProcess(const std::string& bootstrap, const GroupShape& shape, int rank,
                   const std::function<void(int)>& before_run) {
  FakeExperts experts(shape, rank);
  experts.before_run = before_run;
  auto group = SharedMemoryGroup::Open(bootstrap, shape, 1, rank, &experts, kPatient);
  if (!group.ok() || !(*group)->Connect().ok()) return 10;
  auto plan = (*group)->ReceivePlan();
  return plan.ok() && plan->plan == "end" ? 0 : 11;
}

TEST(SharedMemoryProcessTest, ProcessesGiveTheReferenceResults) {
  std::mt19937 random(21);
  GroupShape shape = RandomShape(6, 1, random);
  FakeExperts experts(shape, 0);
  auto leader = SharedMemoryGroup::Create(shape, 1, &experts, kPatient);
  ASSERT_TRUE(leader.ok()) << leader.status();
  std::vector<pid_t> children;
  for (int rank = 1; rank < shape.num_ranks; ++rank) {
    children.push_back(ForkRank(
        [&, rank] { return ServeAsProcess((*leader)->bootstrap(), shape, rank, nullptr); }));
  }
  ASSERT_TRUE((*leader)->Connect().ok());
  for (uint64_t step = 1; step <= 20; ++step) {
    ASSERT_TRUE((*leader)->SendPlan(step, "", {}).ok());
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      const auto ids = RandomRouting(shape, shape.max_rows, (*leader)->rows(), random);
      ASSERT_TRUE((*leader)->Dispatch(step, layer, shape.max_rows, ids.data()).ok());
      auto results = (*leader)->Combine();
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_EQ(CountWrong(shape, layer, shape.max_rows, (*leader)->rows(), ids, *results), 0);
    }
  }
  ASSERT_TRUE((*leader)->SendPlan(21, "end", {1, 2, 3, 4, 5}).ok());
  for (const pid_t child : children) EXPECT_EQ(WaitFor(child), 0);
}

// A rank is killed inside its experts (while its owner combines) or at a random moment of many
// steps. The survivors time out with the right suspect, or are aborted by whoever saw it die.
TEST(SharedMemoryProcessTest, AKilledExpertRankIsTheSuspect) {
  const GroupShape shape = SmallShape(4, 1);
  for (const bool abort : {false, true}) {
    FakeExperts experts(shape, 0);
    auto leader = SharedMemoryGroup::Create(shape, 1, &experts, kShortDeadline);
    ASSERT_TRUE(leader.ok()) << leader.status();
    std::vector<pid_t> children;
    for (int rank = 1; rank < shape.num_ranks; ++rank) {
      children.push_back(ForkRank([&, rank] {
        return ServeAsProcess((*leader)->bootstrap(), shape, rank, [rank](int layer) {
          if (rank == 2 && layer == 1) raise(SIGKILL);
        });
      }));
    }
    ASSERT_TRUE((*leader)->Connect().ok());
    ASSERT_TRUE((*leader)->SendPlan(1, "", {}).ok());
    const std::vector<int32_t> ids = AllExperts(shape);
    ASSERT_TRUE((*leader)->Dispatch(1, 0, 3, ids.data()).ok());
    ASSERT_TRUE((*leader)->Combine().ok());
    ASSERT_TRUE((*leader)->Dispatch(1, 1, 3, ids.data()).ok());
    std::thread watcher([&] {
      EXPECT_TRUE(WIFSIGNALED(WaitFor(children[1])));
      if (abort) (*leader)->Abort("rank 2 died");
    });
    const absl::Status status = (*leader)->Combine().status();
    watcher.join();
    if (abort) {
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
      EXPECT_EQ((*leader)->suspect(), 2);
    }
    for (const pid_t child : {children[0], children[2]}) {
      kill(child, SIGKILL);
      WaitFor(child);
    }
  }
}

TEST(SharedMemoryProcessTest, ARankKilledAtAnyMomentIsTheSuspect) {
  const GroupShape shape = SmallShape(3, 1);
  std::mt19937 random(22);
  for (int round = 0; round < 10; ++round) {
    FakeExperts experts(shape, 0);
    auto leader = SharedMemoryGroup::Create(shape, 1, &experts, kShortDeadline);
    ASSERT_TRUE(leader.ok()) << leader.status();
    std::vector<pid_t> children;
    for (int rank = 1; rank < shape.num_ranks; ++rank) {
      children.push_back(ForkRank(
          [&, rank] { return ServeAsProcess((*leader)->bootstrap(), shape, rank, nullptr); }));
    }
    ASSERT_TRUE((*leader)->Connect().ok());
    const int victim = 1 + round % 2;
    const auto delay =
        std::chrono::microseconds(std::uniform_int_distribution<int>(0, 5000)(random));
    std::thread killer([&] {
      std::this_thread::sleep_for(delay);
      kill(children[victim - 1], SIGKILL);
    });
    const std::vector<int32_t> ids = AllExperts(shape);
    absl::Status status;
    for (uint64_t step = 1; status.ok(); ++step) {
      ASSERT_TRUE((*leader)->SendPlan(step, "", {}).ok());
      for (int layer = 0; layer < shape.num_layers && status.ok(); ++layer) {
        ASSERT_TRUE((*leader)->Dispatch(step, layer, 3, ids.data()).ok());
        status = (*leader)->Combine().status();
      }
    }
    killer.join();
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_EQ((*leader)->suspect(), victim);
    kill(children[2 - victim], SIGKILL);
    for (const pid_t child : children) WaitFor(child);
  }
}

TEST(SharedMemoryProcessTest, AKilledOwnerIsTheSuspectOfTheLeader) {
  const GroupShape shape = SmallShape(3, 2);
  FakeExperts experts(shape, 0);
  auto leader = SharedMemoryGroup::Create(shape, 1, &experts, kShortDeadline);
  ASSERT_TRUE(leader.ok()) << leader.status();
  const std::vector<int32_t> ids = AllExperts(shape);
  const pid_t owner = ForkRank([&] {
    FakeExperts own(shape, 1);
    auto group = SharedMemoryGroup::Open((*leader)->bootstrap(), shape, 1, 1, &own, kPatient);
    if (!group.ok() || !(*group)->Connect().ok() || !(*group)->ReceivePlan().ok()) return 10;
    if (!(*group)->Dispatch(1, 0, 2, ids.data()).ok()) return 11;
    raise(SIGKILL);  // after Dispatch, before Combine
    return 12;
  });
  const pid_t server =
      ForkRank([&] { return ServeAsProcess((*leader)->bootstrap(), shape, 2, nullptr); });
  ASSERT_TRUE((*leader)->Connect().ok());
  ASSERT_TRUE((*leader)->SendPlan(1, "", {1}).ok());
  // The leader still serves the dead owner's rows: that is not yet an error.
  EXPECT_EQ((*leader)->ReceiveResults(1, {1}).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*leader)->suspect(), 1);
  EXPECT_GT(experts.num_rows, 0);
  EXPECT_TRUE(WIFSIGNALED(WaitFor(owner)));
  kill(server, SIGKILL);
  WaitFor(server);
}

}  // namespace
}  // namespace moe::exchange
