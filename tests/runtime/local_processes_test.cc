// Runs real processes: /bin/sh and friends stand in for workers.
#include "runtime/local_processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::runtime {
namespace {

using ::testing::Contains;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr absl::Duration kPatience = absl::Seconds(60);  // for a loaded machine

bool Gone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

class LocalProcessesTest : public ::testing::Test {
 protected:
  // Each slot runs a shell script.
  void Create(std::map<int, std::string> scripts, bool verbose = false) {
    LocalProcessesOptions options;
    options.command = [scripts = std::move(scripts)](int slot, const std::string& worker_id) {
      return std::vector<std::string>{"/bin/sh", "-c", scripts.at(slot), worker_id};
    };
    options.show_line = [this](std::string_view line) {
      absl::MutexLock lock(&mu_);
      lines_.emplace_back(line);
    };
    options.verbose = verbose;
    auto processes = LocalProcesses::Create(std::move(options));
    ASSERT_TRUE(processes.ok()) << processes.status();
    processes_ = *std::move(processes);
    processes_->SetCallbacks({.on_exit =
                                  [this](const WorkerExit& exit) {
                                    absl::MutexLock lock(&mu_);
                                    exits_.push_back(exit);
                                  },
                              .on_started = nullptr});
  }

  std::string Start(int slot) {
    auto id = processes_->StartWorker(slot);
    EXPECT_TRUE(id.ok() && id->has_value()) << id.status();
    return id.ok() ? id->value_or("") : "";
  }

  std::vector<WorkerExit> WaitForExits(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return exits_.size() >= count; };
    mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience);
    return exits_;
  }
  std::vector<std::string> WaitForLines(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return lines_.size() >= count; };
    mu_.AwaitWithTimeout(absl::Condition(&enough), kPatience);
    return lines_;
  }
  std::vector<std::string> Lines() {
    absl::MutexLock lock(&mu_);
    return lines_;
  }

  absl::Mutex mu_;
  std::vector<WorkerExit> exits_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<LocalProcesses> processes_;  // ends first
};

TEST_F(LocalProcessesTest, AnExitIsReportedOnceWithStatusAndLastLines) {
  Create({{4, "echo to stdout; echo to stderr >&2; printf unfinished; exit 3"}});
  const std::string id = Start(4);
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].slot, 4);
  EXPECT_EQ(exits[0].worker_id, id);
  EXPECT_EQ(exits[0].description, "exited with status 3");
  EXPECT_EQ(exits[0].last_lines, "to stdout\nto stderr\nunfinished");
}

TEST_F(LocalProcessesTest, KillEndsAProcessThatIgnoresEverythingElse) {
  Create({{0, "trap '' TERM INT HUP; echo up; while :; do sleep 1; done"}});
  const std::string id = Start(0);
  WaitForLines(1);
  const int pid = processes_->PidOf(id);
  ASSERT_GT(pid, 0);
  EXPECT_EQ(getpgid(pid), pid) << "Ctrl-C would reach it";
  processes_->Kill("no such worker", "a test");
  processes_->Kill(id, "a test");
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].description, "was killed by signal 9 (Killed)");
  EXPECT_TRUE(Gone(pid));
  processes_->Kill(id, "a test");  // nothing happens
}

TEST_F(LocalProcessesTest, AStoppedProcessCanBeKilled) {
  Create({{0, "exec sleep 1000"}});
  const std::string id = Start(0);
  kill(processes_->PidOf(id), SIGSTOP);
  processes_->Kill(id, "a test");
  EXPECT_EQ(WaitForExits(1).size(), 1u);
}

TEST_F(LocalProcessesTest, EveryStartGetsAnIdOfItsOwn) {
  Create({{0, "exec sleep 1000"}, {1, "exec sleep 1000"}});
  const std::string a = Start(0);
  const std::string b = Start(0);
  const std::string c = Start(1);
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
  EXPECT_NE(b, c);
}

TEST_F(LocalProcessesTest, AProgramThatIsMissingIsAnErrorAtOnce) {
  LocalProcessesOptions options;
  options.command = [](int, const std::string&) {
    return std::vector<std::string>{"/no/such/program"};
  };
  auto processes = LocalProcesses::Create(std::move(options));
  ASSERT_TRUE(processes.ok());
  const auto id = (*processes)->StartWorker(0);
  EXPECT_EQ(id.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(id.status().message()), HasSubstr("/no/such/program"));
}

TEST_F(LocalProcessesTest, StopAllAsksFirst) {
  Create({{0, "trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.1; done"}});
  const int polite = processes_->PidOf(Start(0));
  WaitForLines(1);
  processes_->StopAll(kPatience);
  EXPECT_TRUE(Gone(polite));
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].description, "exited with status 0");
  EXPECT_EQ(processes_->StartWorker(0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(LocalProcessesTest, StopAllKillsWhatIsLeft) {
  Create({{0, "trap '' TERM; echo up; while :; do sleep 1; done"}});
  const int stubborn = processes_->PidOf(Start(0));
  WaitForLines(1);
  processes_->StopAll(absl::Milliseconds(500));
  EXPECT_TRUE(Gone(stubborn));
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].description, "was killed by signal 9 (Killed)");
}

TEST_F(LocalProcessesTest, PeopleSeeAlarmsAndWhatAFailedWorkerWroteLast) {
  Create({{7, "echo T info quiet; echo T error loud; sleep 0.2; exit 1"}});
  Start(7);
  WaitForExits(1);
  EXPECT_THAT(Lines(),
              ::testing::ElementsAre("worker 7 | T error loud", "worker 7 | T info quiet"));
}

TEST_F(LocalProcessesTest, AWorkerThatWasToldToStopEndsQuietly) {
  Create({{7, "echo T info quiet; echo up; exec sleep 1000"}});
  Start(7);
  WaitForLines(1);
  processes_->StopAll(absl::Seconds(5));
  EXPECT_THAT(Lines(), Not(Contains(HasSubstr("quiet"))));
}

TEST_F(LocalProcessesTest, VerboseShowsEverythingInOrder) {
  Create({{7, "echo T info one; echo T error two; echo T debug three"}}, /*verbose=*/true);
  Start(7);
  WaitForExits(1);
  EXPECT_THAT(Lines(), ::testing::ElementsAre("worker 7 | T info one", "worker 7 | T error two",
                                              "worker 7 | T debug three"));
}

TEST_F(LocalProcessesTest, AFloodOfOutputHoldsNobodyUp) {
  Create({{0, "exec yes"}, {1, "exit 5"}});
  const std::string flood = Start(0);
  Start(1);
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].slot, 1);
  processes_->Kill(flood, "a test");
  EXPECT_EQ(WaitForExits(2).size(), 2u);
}

TEST_F(LocalProcessesTest, AGrandchildThatKeepsThePipeDoesNotHideTheExit) {
  Create({{0, "sleep 1000 & echo $!; exit 6"}});
  Start(0);
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].description, "exited with status 6");
  const int grandchild = std::stoi(exits[0].last_lines);
  kill(grandchild, SIGKILL);
}

TEST_F(LocalProcessesTest, AWorkerThatClosesItsOutputIsStillWatched) {
  Create({{0, "exec >&- 2>&-; sleep 0.3; exit 8"}});
  Start(0);
  const auto exits = WaitForExits(1);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].description, "exited with status 8");
}

TEST_F(LocalProcessesTest, ChildrenStartWithDefaultSignalsNoStdinAndNoOtherDescriptors) {
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  // Opened without close-on-exec, as a careless library might.
  const int leak = open("/dev/null", O_RDONLY);  // NOLINT(android-cloexec-open)
  ASSERT_GE(leak, 0);
  Create({{0,
           "read x && echo has stdin; ls /proc/self/fd | tr '\\n' ' '; echo; "
           "grep -E 'SigBlk|SigIgn' /proc/self/status"}},
         /*verbose=*/true);
  Start(0);
  const auto exits = WaitForExits(1);
  close(leak);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_EQ(exits.size(), 1u);
  // 3 is ls's own.
  EXPECT_THAT(exits[0].last_lines, StartsWith("0 1 2 3 \n"));
  EXPECT_THAT(exits[0].last_lines, HasSubstr("SigBlk:\t0000000000000000"));
  // Signals 32 and 33 belong to the C library, which lets nobody change them: as we inherited them.
  EXPECT_THAT(exits[0].last_lines, ContainsRegex("SigIgn:\t0000000[01][08]0000000"));
}

// The promise that matters most: whoever kills the controller leaves no worker behind.
TEST_F(LocalProcessesTest, NoWorkerOutlivesAKilledController) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  const pid_t controller = fork();
  ASSERT_GE(controller, 0);
  if (controller == 0) {
    LocalProcessesOptions options;
    options.command = [](int, const std::string&) {
      return std::vector<std::string>{"/bin/sleep", "1000"};
    };
    auto processes = LocalProcesses::Create(std::move(options));
    for (int slot = 0; slot < 8; ++slot) {
      const auto id = (*processes)->StartWorker(slot);
      const pid_t pid = id.ok() ? (*processes)->PidOf(id->value_or("")) : -1;
      if (write(fds[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
    }
    pause();
    _exit(1);
  }
  close(fds[1]);  // a controller that fails is an end, and not a silence
  std::vector<pid_t> workers(8);
  for (pid_t& pid : workers) {
    ASSERT_EQ(read(fds[0], &pid, sizeof(pid)), static_cast<ssize_t>(sizeof(pid)));
    ASSERT_GT(pid, 0);
    EXPECT_FALSE(Gone(pid));
  }
  ASSERT_EQ(kill(controller, SIGKILL), 0);
  ASSERT_EQ(waitpid(controller, nullptr, 0), controller);
  close(fds[0]);
  // They are reaped by another parent, or stay as zombies where that one does not reap.
  const auto ended = [](pid_t pid) {
    if (Gone(pid)) return true;
    const int fd = open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return true;
    char text[256] = {};
    const ssize_t size = read(fd, text, sizeof(text) - 1);
    close(fd);
    // Z waits for its parent, X is on its way out of the table.
    const std::string stat(text);
    return size <= 0 || stat.find(") Z ") != std::string::npos ||
           stat.find(") X ") != std::string::npos;
  };
  for (const pid_t pid : workers) {
    for (int i = 0; i < 6000 && !ended(pid); ++i) usleep(10'000);
    EXPECT_TRUE(ended(pid)) << pid;
  }
}

TEST_F(LocalProcessesTest, SixtyFourWorkersComeAndGo) {
  std::map<int, std::string> scripts;
  for (int slot = 0; slot < 64; ++slot) scripts[slot] = "exec sleep 1000";
  Create(std::move(scripts));
  std::vector<std::string> ids;
  for (int slot = 0; slot < 64; ++slot) ids.push_back(Start(slot));
  for (int slot = 0; slot < 64; slot += 2)
    processes_->Kill(ids[static_cast<size_t>(slot)], "a test");
  EXPECT_EQ(WaitForExits(32).size(), 32u);
  processes_->StopAll(absl::Seconds(30));
  EXPECT_EQ(WaitForExits(64).size(), 64u);
}

}  // namespace
}  // namespace moe::runtime
