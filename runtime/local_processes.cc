// glibc 2.41 forgets to say so itself.
extern "C" {
#include <sys/pidfd.h>
}
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "runtime/local_processes.h"
#include "runtime/log_tail.h"
#include "runtime/spawn.h"

namespace moe::runtime {

std::string DescribeExit(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const int signal_number = WTERMSIG(wait_status);
    const char* name = sigdescr_np(signal_number);
    return absl::StrCat("was killed by signal ", signal_number, " (",
                        name != nullptr ? name : "unknown", ")");
  }
  return absl::StrCat("exited with status ", WEXITSTATUS(wait_status));
}

class LocalProcesses::Impl {
 public:
  Impl(LocalProcessesOptions options, int wake_fd)
      : options_(std::move(options)), wake_fd_(wake_fd) {
    thread_ = std::thread([this] { Loop(); });
  }

  ~Impl() {
    StopAll(absl::ZeroDuration());
    close(wake_fd_);
  }

  void SetCallbacks(Callbacks callbacks) {
    absl::MutexLock lock(&mu_);
    on_exit_ = std::move(callbacks.on_exit);
  }

  absl::StatusOr<std::string> StartWorker(int slot) {
    StartRequest request;
    request.slot = slot;
    absl::MutexLock lock(&mu_);
    if (stopping_) return absl::FailedPreconditionError("the runtime is stopping");
    requests_.push_back(&request);
    Wake();
    mu_.Await(absl::Condition(+[](StartRequest* r) { return r->result.has_value(); }, &request));
    return *std::move(request.result);
  }

  void Kill(std::string_view worker_id) {
    absl::MutexLock lock(&mu_);
    const auto found = processes_.find(worker_id);
    if (found != processes_.end()) Signal(found->second, SIGKILL);
  }

  void StopAll(absl::Duration grace) {
    {
      absl::MutexLock lock(&mu_);
      stopping_ = true;
      if (grace > absl::ZeroDuration()) {
        for (const auto& [id, process] : processes_) Signal(process, SIGTERM);
        mu_.AwaitWithTimeout(absl::Condition(this, &Impl::NoneLeft), grace);
      }
      for (const auto& [id, process] : processes_) Signal(process, SIGKILL);
      mu_.Await(absl::Condition(this, &Impl::NoneLeft));
      thread_ends_ = true;
      Wake();
      if (joined_) return;
      joined_ = true;
    }
    thread_.join();
  }

  int PidOf(std::string_view worker_id) const {
    absl::MutexLock lock(&mu_);
    const auto found = processes_.find(worker_id);
    return found == processes_.end() ? -1 : found->second.pid;
  }

 private:
  struct Process {
    int slot = 0;
    std::string worker_id;
    int pid = -1;
    int pidfd = -1;
    int log_fd = -1;
    std::shared_ptr<LogTail> tail;  // of the watching thread
  };
  struct StartRequest {
    int slot = 0;
    std::optional<absl::StatusOr<std::string>> result;
  };

  bool NoneLeft() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return processes_.empty() && requests_.empty();
  }

  void Wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
  }

  static void Signal(const Process& process, int signal_number) {
    pidfd_send_signal(process.pidfd, signal_number, nullptr, 0);
  }

  // ---- The watching thread ----

  void Loop() {
    while (true) {
      StartRequested();
      std::vector<Process> processes;
      {
        absl::MutexLock lock(&mu_);
        if (thread_ends_) return;
        for (const auto& [id, process] : processes_) processes.push_back(process);
      }
      std::vector<pollfd> fds = {{.fd = wake_fd_, .events = POLLIN, .revents = 0}};
      for (const Process& process : processes) {
        fds.push_back({.fd = process.pidfd, .events = POLLIN, .revents = 0});
        fds.push_back({.fd = process.log_fd, .events = POLLIN, .revents = 0});
      }
      if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
      if (fds[0].revents != 0) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t num_read = read(wake_fd_, &count, sizeof(count));
      }
      for (size_t i = 0; i < processes.size(); ++i) {
        Process& process = processes[i];
        if (fds[2 * i + 1].revents != 0) {
          Reap(process);
        } else if (fds[2 * i + 2].revents != 0 && !ReadLog(process)) {
          CloseLog(process);
        }
      }
    }
  }

  void StartRequested() {
    while (true) {
      StartRequest* request = nullptr;
      std::string worker_id;
      {
        absl::MutexLock lock(&mu_);
        if (requests_.empty()) return;
        request = requests_.front();
        worker_id = absl::StrCat("worker-", request->slot, "-", ++num_started_);
      }
      absl::StatusOr<SpawnedProcess> spawned = Spawn(options_.command(request->slot, worker_id));
      absl::MutexLock lock(&mu_);
      requests_.pop_front();
      if (!spawned.ok()) {
        // Not copied: its last owner frees it, and a sanitizer would not see that after the others.
        request->result = std::move(spawned).status();
        continue;
      }
      const Process process{
          .slot = request->slot,
          .worker_id = worker_id,
          .pid = spawned->pid,
          .pidfd = spawned->pidfd,
          .log_fd = spawned->log_fd,
          .tail = std::make_shared<LogTail>(options_.num_last_lines, options_.max_line_bytes)};
      processes_[worker_id] = process;
      request->result = worker_id;
      // StopAll may have begun meanwhile and must find no process that was not told.
      if (stopping_) Signal(process, SIGKILL);
    }
  }

  // Takes what the pipe holds, at most a bounded amount, so that one that floods does not keep the
  // thread from the others. False when nothing more will come.
  bool ReadLog(const Process& process) {
    char buffer[16384];
    for (int i = 0; i < 16; ++i) {
      const ssize_t num_bytes = read(process.log_fd, buffer, sizeof(buffer));
      if (num_bytes < 0 && errno == EINTR) continue;
      if (num_bytes < 0) return errno == EAGAIN;
      if (num_bytes == 0) return false;
      const std::string_view bytes(buffer, static_cast<size_t>(num_bytes));
      for (const std::string& line : process.tail->Append(bytes)) ShowIfWanted(process, line);
    }
    return true;
  }

  // It closed its output but lives.
  void CloseLog(const Process& process) {
    absl::MutexLock lock(&mu_);
    Process& stored = processes_[process.worker_id];
    close(stored.log_fd);
    stored.log_fd = -1;  // poll ignores it
  }

  void Reap(Process& process) {
    int wait_status = 0;
    while (waitpid(process.pid, &wait_status, 0) < 0 && errno == EINTR) {
    }
    if (process.log_fd >= 0) {
      ReadLog(process);
      close(process.log_fd);
    }
    for (const std::string& line : process.tail->Finish()) ShowIfWanted(process, line);
    // One that was dismissed ends by itself, maybe before StopAll asks for it.
    bool expected = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
    std::function<void(const WorkerExit&)> on_exit;
    {
      absl::MutexLock lock(&mu_);
      expected = expected || stopping_;
      on_exit = on_exit_;
    }
    if (!expected && !options_.verbose) {
      for (const std::string& line : process.tail->lines()) {
        if (!IsAlarming(line)) Show(process, line);  // the others were shown when they came
      }
    }
    if (on_exit) {
      on_exit({.slot = process.slot,
               .worker_id = process.worker_id,
               .description = DescribeExit(wait_status),
               .last_lines = absl::StrJoin(process.tail->lines(), "\n"),
               .exit_code = WIFEXITED(wait_status) ? std::optional<int>(WEXITSTATUS(wait_status))
                                                   : std::nullopt});
    }
    // Last: StopAll promises that nothing is called after it. Until then others may send a signal.
    absl::MutexLock lock(&mu_);
    close(process.pidfd);
    processes_.erase(process.worker_id);
  }

  void ShowIfWanted(const Process& process, const std::string& line) const {
    if (options_.verbose || IsAlarming(line)) Show(process, line);
  }

  void Show(const Process& process, const std::string& line) const {
    const std::string text = absl::StrCat("worker ", process.slot, " | ", line);
    if (options_.show_line) {
      options_.show_line(text);
    } else {
      std::fprintf(stderr, "%s\n", text.c_str());
    }
  }

  const LocalProcessesOptions options_;
  const int wake_fd_;
  std::thread thread_;

  mutable absl::Mutex mu_;
  std::function<void(const WorkerExit&)> on_exit_ ABSL_GUARDED_BY(mu_);
  std::deque<StartRequest*> requests_ ABSL_GUARDED_BY(mu_);  // owned by the waiting callers
  std::map<std::string, Process, std::less<>> processes_ ABSL_GUARDED_BY(mu_);
  uint64_t num_started_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool thread_ends_ ABSL_GUARDED_BY(mu_) = false;
  bool joined_ ABSL_GUARDED_BY(mu_) = false;
};

absl::StatusOr<std::unique_ptr<LocalProcesses>> LocalProcesses::Create(
    LocalProcessesOptions options) {
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) return absl::ErrnoToStatus(errno, "eventfd");
  return std::unique_ptr<LocalProcesses>(
      new LocalProcesses(std::make_unique<Impl>(std::move(options), wake_fd)));
}

LocalProcesses::LocalProcesses(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalProcesses::~LocalProcesses() = default;

void LocalProcesses::SetCallbacks(Callbacks callbacks) {
  impl_->SetCallbacks(std::move(callbacks));
}
absl::StatusOr<std::optional<std::string>> LocalProcesses::StartWorker(int slot) {
  return impl_->StartWorker(slot);
}
void LocalProcesses::Kill(std::string_view worker_id, std::string_view /*reason*/) {
  impl_->Kill(worker_id);  // the group has logged why
}
void LocalProcesses::StopAll(absl::Duration grace) { impl_->StopAll(grace); }
int LocalProcesses::PidOf(std::string_view worker_id) const { return impl_->PidOf(worker_id); }

}  // namespace moe::runtime
