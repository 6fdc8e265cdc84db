#include "cli/kubectl/kubectl.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace moe::cli {
namespace {

constexpr size_t kMaxOutputBytes = size_t{64} << 20;
constexpr size_t kMaxErrorBytes = size_t{64} << 10;  // more is read and dropped

// Both ends of a pipe; closes what is left.
struct Pipe {
  int read = -1;
  int write = -1;

  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
  bool Open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0];
    write = ends[1];
    return true;
  }
  void CloseRead() { Close(&read); }
  void CloseWrite() { Close(&write); }

 private:
  static void Close(int* fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
  }
};

// Starts `command`, whose first word is looked for in PATH.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command,
                            posix_spawn_file_actions_t* actions) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], actions, nullptr, argv.data(), environ);
  if (error == ENOENT) {
    return absl::NotFoundError(absl::StrCat(command[0], " is not in PATH"));
  }
  if (error != 0) {
    return absl::InternalError(absl::StrCat("can't run ", command[0], ": ", strerror(error)));
  }
  return pid;
}

// The exit code, or 128 + the signal that ended it.
int Wait(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Appends what can be read to `text`, up to `limit` bytes. False at the end.
bool ReadSome(int fd, size_t limit, std::string* text, bool* too_much) {
  char buffer[65536];
  const ssize_t count = read(fd, buffer, sizeof(buffer));
  if (count < 0) return errno == EINTR;
  if (text->size() + static_cast<size_t>(count) > limit) {
    *too_much = true;
  } else {
    text->append(buffer, static_cast<size_t>(count));
  }
  return count > 0;
}

// Talks to a process until it has closed both of its outputs.
void Converse(Pipe* in, Pipe* out, Pipe* err, absl::string_view input, std::string* output,
              std::string* errors, bool* too_much) {
  bool dropped = false;
  while (out->read >= 0 || err->read >= 0) {
    if (input.empty()) in->CloseWrite();
    pollfd fds[] = {{in->write, POLLOUT, 0}, {out->read, POLLIN, 0}, {err->read, POLLIN, 0}};
    if (poll(fds, 3, -1) < 0) continue;  // EINTR
    if (fds[0].revents != 0) {
      const ssize_t count = write(in->write, input.data(), input.size());
      if (count > 0) {
        input.remove_prefix(static_cast<size_t>(count));
      } else if (errno != EINTR && errno != EAGAIN) {
        input = {};  // it does not want to know; its exit code says why
      }
    }
    if (fds[1].revents != 0 && !ReadSome(out->read, kMaxOutputBytes, output, too_much)) {
      out->CloseRead();
    }
    if (fds[2].revents != 0 && !ReadSome(err->read, kMaxErrorBytes, errors, &dropped)) {
      err->CloseRead();
    }
  }
}

}  // namespace

std::vector<std::string> Kubectl::Command(const std::vector<std::string>& args) const {
  std::vector<std::string> command = {options_.program};
  if (!options_.context.empty()) command.push_back(absl::StrCat("--context=", options_.context));
  if (!options_.ns.empty()) command.push_back(absl::StrCat("--namespace=", options_.ns));
  command.insert(command.end(), args.begin(), args.end());
  return command;
}

absl::StatusOr<std::string> Kubectl::Run(const std::vector<std::string>& args,
                                         const std::string& input) const {
  Pipe in;
  Pipe out;
  Pipe err;
  if (!in.Open() || !out.Open() || !err.Open()) {
    return absl::ResourceExhaustedError(absl::StrCat("pipe: ", strerror(errno)));
  }
  fcntl(in.write, F_SETFL, O_NONBLOCK);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write, STDERR_FILENO);
  const absl::StatusOr<pid_t> pid = Spawn(Command(args), &actions);
  posix_spawn_file_actions_destroy(&actions);
  if (!pid.ok()) return pid.status();
  in.CloseRead();
  out.CloseWrite();
  err.CloseWrite();
  std::string output;
  std::string errors;
  bool too_much = false;
  Converse(&in, &out, &err, input, &output, &errors, &too_much);
  const int code = Wait(*pid);
  if (code != 0) {
    const absl::string_view said = absl::StripAsciiWhitespace(errors);
    return absl::InternalError(said.empty() ? absl::StrCat(options_.program, " ended with ", code)
                                            : std::string(said));
  }
  if (too_much) return absl::ResourceExhaustedError("kubectl printed more than 64 MiB");
  return output;
}

absl::StatusOr<int> Kubectl::Show(const std::vector<std::string>& args) const {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  const absl::StatusOr<pid_t> pid = Spawn(Command(args), &actions);
  posix_spawn_file_actions_destroy(&actions);
  if (!pid.ok()) return pid.status();
  return Wait(*pid);
}

}  // namespace moe::cli
