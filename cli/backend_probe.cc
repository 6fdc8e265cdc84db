#include "cli/backend_probe.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/spawn.h"

namespace moe::cli {
namespace {

// A driver that wakes its GPUs up takes some seconds.
constexpr int kProbeMilliseconds = 60'000;
constexpr size_t kMaxOutputBytes = 64 << 10;

// What comes out of `fd` until its end. False when it did not end in time.
bool ReadAll(int fd, std::string* output) {
  char buffer[4096];
  while (true) {
    pollfd wanted = {.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = poll(&wanted, 1, kProbeMilliseconds);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t n = read(fd, buffer, sizeof(buffer));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return true;
    if (output->size() < kMaxOutputBytes) output->append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<BackendProbe> ParseProbe(absl::string_view output) {
  BackendProbe probe;
  for (absl::string_view line : absl::StrSplit(output, '\n')) {
    if (absl::ConsumePrefix(&line, "backend cuda: ")) {
      probe = {.cuda = true, .reason = std::string(line)};
    } else if (absl::ConsumePrefix(&line, "backend cpu: ")) {
      return BackendProbe{.cuda = false, .reason = std::string(line)};
    } else if (probe.cuda && absl::ConsumePrefix(&line, "gpus: ") &&
               absl::SimpleAtoi(line, &probe.num_gpus) && probe.num_gpus > 0) {
      return probe;
    }
  }
  const absl::string_view words = absl::StripAsciiWhitespace(output);
  return absl::FailedPreconditionError(words.empty() ? "moe-worker --probe said nothing" : words);
}

BackendProbe FitAuto(const BackendProbe& probe, const LayoutRequest& request) {
  const int num_ranks = request.expert_parallel.value_or(1);
  if (!probe.cuda || num_ranks == 1) return probe;
  if (num_ranks > probe.num_gpus && !request.share_gpus) {
    return {.cuda = false,
            .reason = absl::StrCat("--expert-parallel ", num_ranks,
                                   " needs a GPU for each rank, and there are ", probe.num_gpus)};
  }
  return probe;
}

absl::StatusOr<BackendProbe> ProbeBackend(const std::string& worker, const std::string& backend) {
  auto process = runtime::Spawn({worker, "--probe", "--backend", backend});
  if (!process.ok()) return process.status();
  std::string output;
  const bool ended = ReadAll(process->log_fd, &output);
  if (!ended) kill(process->pid, SIGKILL);
  while (waitpid(process->pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  close(process->log_fd);
  close(process->pidfd);
  if (!ended) {
    return absl::FailedPreconditionError(absl::StrCat("looking for a GPU takes more than ",
                                                      kProbeMilliseconds / 1000,
                                                      " s: the driver hangs; use --backend cpu"));
  }
  return ParseProbe(output);
}

}  // namespace moe::cli
