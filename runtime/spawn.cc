// glibc 2.41 forgets to say so itself.
extern "C" {
#include <sys/pidfd.h>
}
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/spawn.h"

namespace moe::runtime {
namespace {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() { Close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  void Set(int fd) {
    Close();
    fd_ = fd;
  }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::Status MakePipe(Fd* read_end, Fd* write_end) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  read_end->Set(fds[0]);
  write_end->Set(fds[1]);
  return absl::OkStatus();
}

// In the child, between fork and exec: only system calls, since other threads of the parent may
// have held any lock.
[[noreturn]] void RunChild(pid_t parent, char* const* argv, int null_fd, int log_fd, int error_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above.
  if (getppid() == parent) {
    setpgid(0, 0);
    for (int signal_number = 1; signal_number < NSIG; ++signal_number) {
      signal(signal_number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (dup2(null_fd, STDIN_FILENO) >= 0 && dup2(log_fd, STDOUT_FILENO) >= 0 &&
        dup2(log_fd, STDERR_FILENO) >= 0) {
      // Everything here is opened close-on-exec; this is for what others opened without.
      constexpr unsigned kCloseOnExec = 1U << 2;
      syscall(SYS_close_range, 3U, ~0U, kCloseOnExec);
      execv(argv[0], argv);
    }
  }
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof(error));
  _exit(127);
}

}  // namespace

absl::StatusOr<SpawnedProcess> Spawn(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return absl::InvalidArgumentError("no program to run");
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  Fd log_read;
  Fd log_write;
  Fd error_read;
  Fd error_write;
  if (absl::Status status = MakePipe(&log_read, &log_write); !status.ok()) return status;
  if (absl::Status status = MakePipe(&error_read, &error_write); !status.ok()) return status;
  const Fd null_fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (null_fd.get() < 0) return absl::ErrnoToStatus(errno, "open /dev/null");
  if (fcntl(log_read.get(), F_SETFL, O_NONBLOCK) != 0) return absl::ErrnoToStatus(errno, "fcntl");

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) RunChild(parent, argv.data(), null_fd.get(), log_write.get(), error_write.get());

  // The pipe closes with exec; bytes in it are the errno of what failed before.
  error_write.Close();
  int error = 0;
  ssize_t num_bytes = -1;
  do {
    num_bytes = read(error_read.get(), &error, sizeof(error));
  } while (num_bytes < 0 && errno == EINTR);
  if (num_bytes != 0) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return absl::ErrnoToStatus(error, absl::StrCat("cannot run ", arguments[0]));
  }
  const int pidfd = pidfd_open(pid, 0);
  if (pidfd < 0) {
    absl::Status status = absl::ErrnoToStatus(errno, "pidfd_open");
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    return status;
  }
  fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  return SpawnedProcess{.pid = pid, .pidfd = pidfd, .log_fd = log_read.Release()};
}

}  // namespace moe::runtime
