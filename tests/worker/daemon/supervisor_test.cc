// Runs real processes: /bin/sh stands in for workers.
#include "worker/daemon/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::worker {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(60);  // for a loaded machine

// Lives until a signal ends it.
constexpr char kForever[] = "echo pid $$; while :; do sleep 0.05; done";
// Says goodbye on SIGTERM.
constexpr char kPolite[] =
    "trap 'echo bye; exit 0' TERM; echo pid $$; while :; do sleep 0.01; done";

class SupervisorTest : public ::testing::Test {
 protected:
  // Each process runs a shell script.
  void Start(std::vector<std::string> scripts) {
    const int num_processes = static_cast<int>(scripts.size());
    auto supervisor =
        Supervisor::Start({.num_processes = num_processes,
                           .command =
                               [scripts = std::move(scripts)](int process) {
                                 return std::vector<std::string>{
                                     "/bin/sh", "-c", scripts[static_cast<size_t>(process)]};
                               },
                           .show_line =
                               [this](std::string_view line) {
                                 absl::MutexLock lock(&mu_);
                                 lines_.emplace_back(line);
                               }});
    ASSERT_TRUE(supervisor.ok()) << supervisor.status();
    supervisor_ = *std::move(supervisor);
  }

  // Of the processes that have said so, once there are `count`; by process.
  std::vector<pid_t> WaitForPids(size_t count) {
    std::vector<pid_t> pids(count, 0);
    absl::MutexLock lock(&mu_);
    const auto all_known = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      size_t num_known = 0;
      for (const std::string& line : lines_) {
        const std::vector<std::string> words = absl::StrSplit(line, ' ');
        unsigned process = 0;
        int pid = 0;
        if (words.size() == 5 && words[3] == "pid" && absl::SimpleAtoi(words[1], &process) &&
            absl::SimpleAtoi(words[4], &pid) && process < count) {
          pids[process] = pid;
          ++num_known;
        }
      }
      return num_known >= count;
    };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&all_known), kPatience));
    return pids;
  }

  static bool Gone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

  absl::Mutex mu_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<Supervisor> supervisor_;  // last: it writes lines
};

TEST_F(SupervisorTest, AProcessThatIsKilledTakesTheOthersAlongAndIsNamed) {
  Start({kPolite, absl::StrCat("echo last words >&2; ", kForever), kForever});
  const std::vector<pid_t> pids = WaitForPids(3);
  kill(pids[1], SIGKILL);
  const absl::Status status = supervisor_->Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()),
              EndsWith("process 1 was killed by signal 9 (Killed); the pod ends with it"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("last words\n"));
  for (const pid_t pid : pids) EXPECT_TRUE(Gone(pid)) << pid;
  EXPECT_EQ(supervisor_->exit_code(), 1);
  // Killed at once, not asked.
  absl::MutexLock lock(&mu_);
  EXPECT_THAT(lines_, Not(testing::Contains(HasSubstr("bye"))));
}

TEST_F(SupervisorTest, AnExitStatusIsTold) {
  Start({kForever, "echo no such model >&2; exit 3"});
  EXPECT_EQ(supervisor_->Wait().message(),
            "no such model\nprocess 1 exited with status 3; the pod ends with it");
  EXPECT_EQ(supervisor_->exit_code(), 3) << "whoever runs the pod may know what it means";
}

TEST_F(SupervisorTest, StopAsksAllAndWaitsForThem) {
  Start({kPolite, kPolite});
  WaitForPids(2);
  supervisor_->Stop();
  EXPECT_TRUE(supervisor_->Wait().ok());
  absl::MutexLock lock(&mu_);
  std::vector<std::string> goodbyes;
  for (const std::string& line : lines_) {
    if (line.ends_with("bye")) goodbyes.push_back(line);
  }
  EXPECT_THAT(goodbyes, UnorderedElementsAre("worker 0 | bye", "worker 1 | bye"));
}

TEST_F(SupervisorTest, WhenOneEndsWellTheOthersAreAsked) {
  Start({kPolite, "exit 0"});
  WaitForPids(1);
  EXPECT_TRUE(supervisor_->Wait().ok());
}

TEST_F(SupervisorTest, AProcessThatFailsWhileAllEndTakesThoseAlongThatTakeLonger) {
  Start({"trap '' TERM; echo pid $$; while :; do sleep 0.01; done",
         "trap 'exit 7' TERM; echo pid $$; while :; do sleep 0.01; done"});
  const std::vector<pid_t> pids = WaitForPids(2);
  supervisor_->Stop();
  EXPECT_THAT(std::string(supervisor_->Wait().message()),
              HasSubstr("process 1 exited with status 7"));
  EXPECT_TRUE(Gone(pids[0]));
}

TEST_F(SupervisorTest, LastWordsFitIntoATerminationMessage) {
  Start({"i=0; while [ $i -lt 20 ]; do i=$((i+1)); printf 'line %d %0500d\\n' $i 0; done; exit 1"});
  const std::string message(supervisor_->Wait().message());
  EXPECT_LE(message.size(), 2048u);
  EXPECT_TRUE(message.starts_with("line ")) << message;
  EXPECT_THAT(message, HasSubstr("line 20 "));
  EXPECT_THAT(message, EndsWith("process 0 exited with status 1; the pod ends with it"));
}

TEST_F(SupervisorTest, NoneIsLeftWhenOneCannotBeStarted) {
  auto supervisor =
      Supervisor::Start({.num_processes = 2,
                         .command =
                             [](int process) {
                               return process == 0
                                          ? std::vector<std::string>{"/bin/sh", "-c", kForever}
                                          : std::vector<std::string>{"/no/such/program"};
                             },
                         .show_line = [](std::string_view) {}});
  EXPECT_EQ(supervisor.status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SupervisorTest, NobodyOutlivesASupervisorThatIsKilled) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t supervisor = fork();
  if (supervisor == 0) {
    // A process of its own, which does not come back.
    close(pipe_fds[0]);
    auto started = Supervisor::Start(
        {.num_processes = 2,
         .command = [](int) { return std::vector<std::string>{"/bin/sh", "-c", kForever}; },
         .show_line =
             [fd = pipe_fds[1]](std::string_view line) {
               const std::string text = std::string(line) + "\n";
               [[maybe_unused]] const ssize_t written = write(fd, text.data(), text.size());
             }});
    if (started.ok()) (void)(*started)->Wait();
    _exit(1);
  }
  close(pipe_fds[1]);
  std::string text;
  char c = 0;
  while (std::count(text.begin(), text.end(), '\n') < 2 && read(pipe_fds[0], &c, 1) == 1) text += c;
  close(pipe_fds[0]);
  kill(supervisor, SIGKILL);
  ASSERT_EQ(waitpid(supervisor, nullptr, 0), supervisor);
  int num_pids = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    int pid = 0;
    ASSERT_TRUE(absl::SimpleAtoi(words.back(), &pid)) << line;
    const absl::Time deadline = absl::Now() + kPatience;
    while (!Gone(pid) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
    EXPECT_TRUE(Gone(pid)) << line;
    ++num_pids;
  }
  EXPECT_EQ(num_pids, 2);
}

TEST(AddressOfProcessTest, PortsAreTenApart) {
  struct Case {
    const char* address;
    int process;
    const char* own;  // empty: refused
  };
  for (const Case& test :
       {Case{"10.0.0.1:7710", 0, "10.0.0.1:7710"}, Case{"10.0.0.1:7710", 3, "10.0.0.1:7740"},
        Case{"[fd00::1]:7711", 15, "[fd00::1]:7861"}, Case{"127.0.0.1:0", 3, "127.0.0.1:0"},
        Case{"127.0.0.1:65530", 1, ""}, Case{"unix:/tmp/engine.sock", 1, ""},
        Case{"127.0.0.1", 1, ""}, Case{":7710", 1, ""}, Case{"", 1, ""}}) {
    const auto own = AddressOfProcess(test.address, test.process);
    EXPECT_EQ(own.ok() ? *own : "", test.own) << test.address;
  }
}

}  // namespace
}  // namespace moe::worker
