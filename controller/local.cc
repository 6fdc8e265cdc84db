#include "controller/local.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/file_epoch_store.h"
#include "controller/coordinator/server.h"
#include "controller/terminal.h"
#include "runtime/local_processes.h"
#include "spdlog/sinks/callback_sink.h"
#include "spdlog/spdlog.h"
#include "worker/model/model_files.h"

namespace moe::controller {
namespace {

constexpr int kExitFailure = 1;
// Workers leave within a second or two; a hung one must not hold up the end for long.
constexpr absl::Duration kWorkerGrace = absl::Seconds(5);

absl::Status PrepareRunDir(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", path));
  }
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at ", path));
  }
  // The sockets have no password: who can enter the folder can join the group.
  if (!S_ISDIR(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " must be a folder that only its owner, this user, can enter"));
  }
  // A path of a unix socket has at most 107 bytes.
  constexpr size_t kLongestName = sizeof("/engine-65535.sock");
  if (path.size() + kLongestName > 107) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is too long a path to hold sockets; use a shorter one"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> WorkerBesideUs() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  if (size < 0) return absl::ErrnoToStatus(errno, "cannot read /proc/self/exe");
  const std::string self(path, static_cast<size_t>(size));
  return absl::StrCat(self.substr(0, self.rfind('/')), "/moe-worker");
}

// The phase that main waits for, told by the loop thread.
class Outcome {
 public:
  // `event_fd` becomes readable with the failure.
  void Fail(const std::string& reason) {
    absl::MutexLock lock(&mu_);
    if (!reason_.empty()) return;
    reason_ = reason.empty() ? "unknown" : reason;
    kill(getpid(), SIGTERM);  // wakes main, which waits for signals only
  }
  std::string reason() const {
    absl::MutexLock lock(&mu_);
    return reason_;
  }

 private:
  mutable absl::Mutex mu_;
  std::string reason_ ABSL_GUARDED_BY(mu_);
};

int Complain(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return kExitFailure;
}

// Whoever started us must not leave us behind. A parent that has asked for more stays obeyed.
void FollowParent() {
  int death_signal = 0;
  const pid_t parent = getppid();
  if (prctl(PR_GET_PDEATHSIG, &death_signal) != 0 || death_signal != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) kill(getpid(), SIGTERM);  // it ended before the call
}

void LogTo(Terminal* terminal, bool verbose) {
  auto logger = std::make_shared<spdlog::logger>(
      "controller", std::make_shared<spdlog::sinks::callback_sink_mt>(
                        [terminal](const spdlog::details::log_msg& message) {
                          const std::string_view text(message.payload.data(),
                                                      message.payload.size());
                          const auto level = spdlog::level::to_string_view(message.level);
                          std::string line = "controller | ";
                          line.append(level.data(), level.size());
                          line.append(": ");
                          line.append(text);
                          terminal->Line(line);
                        }));
  logger->set_level(verbose ? spdlog::level::info : spdlog::level::warn);
  spdlog::set_default_logger(logger);
}

int Lead(LocalFlags flags, int signal_fd, Terminal* terminal) {
  absl::StatusOr<model::ModelFiles> model = model::ReadModelFiles(flags.model);
  if (!model.ok()) return Complain(model.status());
  auto group = MakeLocalGroup(flags, model->config.num_experts, model->config.num_layers);
  if (!group.ok()) return Complain(group.status());
  if (absl::Status status = PrepareRunDir(flags.run_dir); !status.ok()) return Complain(status);
  if (flags.term_file.empty()) flags.term_file = flags.run_dir + "/term";
  auto store = coordinator::FileEpochStore::Open(flags.term_file);
  if (!store.ok()) return Complain(store.status());
  std::string program = flags.worker;
  if (program.empty()) {
    auto beside = WorkerBesideUs();
    if (!beside.ok()) return Complain(beside.status());
    program = *std::move(beside);
  }

  runtime::LocalProcessesOptions process_options;
  process_options.command = [&flags, program](int slot, const std::string& worker_id) {
    return LocalWorkerCommand(flags, program, slot, worker_id);
  };
  process_options.show_line = [terminal](std::string_view line) { terminal->Line(line); };
  process_options.verbose = flags.verbose;
  auto processes = runtime::LocalProcesses::Create(std::move(process_options));
  if (!processes.ok()) return Complain(processes.status());

  Outcome outcome;
  coordinator::ServerOptions options;
  options.listen_address = absl::StrCat("unix:", flags.run_dir, "/coordinator.sock");
  auto server = coordinator::CoordinatorServer::Start(std::move(options));
  if (!server.ok()) return Complain(server.status());
  // The one group of this machine has no name, nor has its deployment.
  absl::Status status =
      (*server)->AddGroup("", *std::move(group), *std::move(store), processes->get(),
                          [&outcome, terminal](const coordinator::v1::GroupState& state) {
                            terminal->Progress(ProgressLine(state));
                            if (state.phase() == coordinator::v1::GroupState::FAILED)
                              outcome.Fail(state.reason());
                          });
  if (!status.ok()) return Complain(status);
  (*server)->ShowDeployment("");

  signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof(info)) != sizeof(info)) {
  }
  terminal->Progress("");
  (*server)->StopGroup("", kWorkerGrace);
  (*server)->Shutdown();
  // The coordinator has logged the reason.
  return outcome.reason().empty() ? EXIT_SUCCESS : kExitFailure;
}

}  // namespace

CLI::App* AddLocal(CLI::App* parent, LocalFlags* flags) {
  CLI::App* app =
      parent->add_subcommand("local", "Run the workers of one group as processes of this machine");
  app->add_option("--model", flags->model, "Folder of the model")->required();
  app->add_option("--expert-parallel", flags->expert_parallel,
                  "Number of workers; each holds its share of the experts of every layer")
      ->required()
      ->check(CLI::Range(1, 65536));
  app->add_option("--attention-ranks", flags->attention_ranks,
                  "How many of the workers also compute attention and own sequences")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app->add_option("--attention", flags->attention,
                  "sharded: each sequence has an owner; replicated: every worker computes all")
      ->check(CLI::IsMember({"sharded", "replicated"}))
      ->capture_default_str();
  app->add_option("--threads", flags->threads, "Threads of a worker that computes attention")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--max-sequences", flags->max_sequences, "Sequences computed in one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--max-step-tokens", flags->max_step_tokens, "Tokens computed in one step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--max-queue", flags->max_queue,
                  "Sequences that wait before more are turned away")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app->add_option("--kv-bytes", flags->kv_bytes, "KV cache of one worker that owns sequences")
      ->capture_default_str();
  app->add_option("--max-context", flags->max_context,
                  "Longest sequence in tokens; 0: what the model allows")
      ->check(CLI::Range(0, INT_MAX))
      ->capture_default_str();
  app->add_option("--step-deadline", flags->step_deadline,
                  "Seconds after which a worker that does not answer is given up")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app->add_option("--run-dir", flags->run_dir,
                  "Private folder (mode 0700) for sockets; made if it is missing")
      ->required();
  app->add_option("--worker", flags->worker, "The worker program; default: beside this one");
  app->add_option("--weights", flags->weights,
                  "Converted weights that the workers use in place of the folder's");
  app->add_option("--kernel-level", flags->kernel_level, "auto, plain, avx2, avx512 or avx512_bf16")
      ->capture_default_str();
  app->add_option("--term-file", flags->term_file,
                  "Keeps term and epoch over restarts; default: RUN_DIR/term");
  app->add_option("--gpu-of-rank", flags->gpu_of_rank,
                  "GPU of each worker, by number, as 0,1,2,3; none: they compute on CPUs")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023));
  app->add_option("--worker-arg", flags->worker_args, "One more argument for every worker");
  app->add_flag("--verbose", flags->verbose, "Show all that the workers log");
  return app;
}

int RunLocal(LocalFlags flags, int signal_fd) {
  FollowParent();
  Terminal screen(isatty(STDERR_FILENO) == 1, [](std::string_view bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stderr);
  });
  LogTo(&screen, flags.verbose);
  const int exit_code = Lead(std::move(flags), signal_fd, &screen);
  spdlog::shutdown();  // before `screen` goes
  return exit_code;
}

}  // namespace moe::controller
