#include "cli/serve.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "cli/backend_probe.h"
#include "cli/child_process.h"
#include "gateway/serving/served_model.h"
#include "kernels/context.h"
#include "worker/model/checkpoint.h"
#include "worker/model/convert.h"

namespace moe::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

int Complain(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

// "auto" or a number.
absl::StatusOr<std::optional<int>> ParseAuto(absl::string_view option, const std::string& text) {
  if (text == "auto") return std::optional<int>();
  int value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, " '", text, "' is neither a number nor 'auto'"));
  }
  return std::optional<int>(value);
}

int NumCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

uint64_t AvailableBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  uint64_t kilobytes = 0;
  while (meminfo >> name >> kilobytes) {
    if (name == "MemAvailable:") return kilobytes * 1024;
    meminfo.ignore(64, '\n');
  }
  return 0;
}

// A folder for the sockets of this run that only this user can enter. Removed at the end; folders
// of runs that were killed are removed by the next one.
class RunDir {
 public:
  static absl::StatusOr<std::unique_ptr<RunDir>> Create() {
    const char* runtime_dir = std::getenv("XDG_RUNTIME_DIR");
    const fs::path parent =
        runtime_dir != nullptr && access(runtime_dir, W_OK) == 0 ? runtime_dir : "/tmp";
    RemoveStale(parent);
    std::string path = parent / absl::StrCat(kPrefix, getuid(), "-", getpid(), "-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot make a folder in ", parent.string()));
    }
    return std::unique_ptr<RunDir>(new RunDir(path));
  }
  ~RunDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  static constexpr const char* kPrefix = "moe-serve-";
  explicit RunDir(std::string path) : path_(std::move(path)) {}

  static void RemoveStale(const fs::path& parent) {
    const std::string prefix = absl::StrCat(kPrefix, getuid(), "-");
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(parent, ignored)) {
      const std::string name = entry.path().filename();
      int pid = 0;
      if (!name.starts_with(prefix) ||
          !absl::SimpleAtoi(
              name.substr(prefix.size(), name.find('-', prefix.size()) - prefix.size()), &pid)) {
        continue;
      }
      struct stat info;
      if (lstat(entry.path().c_str(), &info) != 0 || info.st_uid != getuid()) continue;
      if (kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), ignored);
    }
  }

  std::string path_;
};

// The user's wish to stop: SIGINT, SIGTERM and SIGHUP are blocked and read from a descriptor.
class StopSignals {
 public:
  StopSignals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    fd_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
  }
  ~StopSignals() {
    if (fd_ >= 0) close(fd_);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  bool ok() const { return fd_ >= 0; }
  // Takes one that has arrived since the last call.
  bool Take() {
    signalfd_siginfo info;
    return read(fd_, &info, sizeof(info)) == sizeof(info);
  }

 private:
  int fd_;
};

// Ends our children in order: the gateway finishes its requests, then the workers go.
class Supervisor {
 public:
  Supervisor(ChildProcess* controller, ChildProcess* gateway, StopSignals* signals,
             int drain_seconds)
      : controller_(controller),
        gateway_(gateway),
        signals_(signals),
        drain_seconds_(drain_seconds) {}

  int Run() {
    while (!signals_->Take()) {
      if (controller_->Poll()) {
        std::fprintf(stderr, "error: the controller has ended (exit code %d); stopping\n",
                     controller_->exit_code());
        Stop(gateway_, 2);
        return kExitFailure;
      }
      if (gateway_->Poll()) {
        std::fprintf(stderr, "error: the gateway has ended (exit code %d); stopping\n",
                     gateway_->exit_code());
        Stop(controller_, 10);
        return kExitFailure;
      }
      usleep(50'000);
    }
    std::fprintf(stderr, "stopping: running requests finish first (again to stop at once)\n");
    const bool gateway_ok = Stop(gateway_, drain_seconds_ + 5);
    const bool controller_ok = Stop(controller_, 15);
    return gateway_ok && controller_ok ? 0 : kExitFailure;
  }

 private:
  // SIGTERM, then a wait; SIGKILL after it or when the user insists. True for exit code 0.
  bool Stop(ChildProcess* child, int seconds) {
    child->Signal(SIGTERM);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    while (!child->Poll()) {
      if (std::chrono::steady_clock::now() > deadline || signals_->Take()) {
        child->Signal(SIGKILL);
        while (!child->Poll()) usleep(10'000);
        return false;
      }
      usleep(10'000);
    }
    return child->exit_code() == 0;
  }

  ChildProcess* controller_;
  ChildProcess* gateway_;
  StopSignals* signals_;
  int drain_seconds_;
};

absl::Status FillRequest(const ServeOptions& options, LayoutRequest* request) {
  auto expert_parallel = ParseAuto("--expert-parallel", options.expert_parallel);
  if (!expert_parallel.ok()) return expert_parallel.status();
  request->expert_parallel = *expert_parallel;
  auto attention_ranks = ParseAuto("--attention-ranks", options.attention_ranks);
  if (!attention_ranks.ok()) return attention_ranks.status();
  request->attention_ranks = *attention_ranks;
  request->replicated_attention = options.attention == "replicated";
  if (options.threads > 0) request->threads = options.threads;
  if (options.kv_memory != "auto") {
    auto num_bytes = ParseBytes(options.kv_memory);
    if (!num_bytes.ok()) return num_bytes.status();
    request->kv_bytes = *num_bytes;
  }
  return absl::OkStatus();
}

std::string SiblingProgram(const char* name) {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path() / name;
}

// The backend of this run, asked of the worker where that may be a GPU.
absl::StatusOr<BackendProbe> ChooseBackend(const ServeOptions& options,
                                           const LayoutRequest& request) {
  if (options.backend == "cpu") return BackendProbe{.cuda = false, .reason = "--backend cpu"};
  auto probe = ProbeBackend(SiblingProgram("moe-worker"), options.backend);
  if (!probe.ok() || options.backend != "auto") return probe;
  return FitAuto(*probe, request);
}

}  // namespace

CLI::App* AddServe(CLI::App* app, ServeOptions* options) {
  CLI::App* serve = app->add_subcommand(
      "serve", "Serve a model on this machine: OpenAI-compatible HTTP, one process per rank");
  serve->footer(
      "Examples:\n"
      "  moe serve ./OLMoE-1B-7B-0125-Instruct\n"
      "  moe serve models/demo --expert-parallel 64      # worker i holds expert i of every layer\n"
      "  moe serve models/demo --expert-parallel 8 --attention-ranks 2 --port 9000\n"
      "  moe serve ./OLMoE-1B-7B-0125-Instruct --expert-parallel 8 --backend cuda\n"
      "\nThe model folder holds config.json, *.safetensors and tokenizer.json, as Hugging Face\n"
      "publishes an OLMoE checkpoint. Ctrl-C drains: running requests finish, then all processes "
      "end.");
  serve->add_option("model", options->model_dir, "Folder of the model")->required();

  auto* parallel = serve->add_option_group("Layout");
  parallel
      ->add_option("--expert-parallel", options->expert_parallel,
                   "Number of ranks (processes) that share the experts, 1 to the number of "
                   "experts, or 'auto'")
      ->capture_default_str();
  parallel
      ->add_option("--attention-ranks", options->attention_ranks,
                   "How many of them also compute attention and own sequences, or 'auto'")
      ->capture_default_str();
  parallel
      ->add_option("--attention", options->attention,
                   "'sharded': each sequence has one owner; 'replicated': every rank computes "
                   "attention for all")
      ->check(CLI::IsMember({"sharded", "replicated"}))
      ->capture_default_str();
  parallel
      ->add_option("--threads", options->threads,
                   "Threads in total: attention ranks share them, other ranks run one each "
                   "[all cores]")
      ->check(CLI::Range(1, 1024));
  parallel
      ->add_option(
          "--backend", options->backend,
          "What computes: 'cpu', 'cuda' (a GPU for each rank), or 'auto': GPUs where there "
          "are as many that can be used")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->capture_default_str();
  parallel->add_flag("--share-gpus", options->layout.share_gpus,
                     "For tests: let several ranks share a GPU where there are fewer");
  parallel
      ->add_option("--kernel-level", options->kernel_level,
                   "Instructions to use: auto, plain, avx2, avx512, avx512_bf16 (same output)")
      ->capture_default_str();

  auto* limits = serve->add_option_group("Limits");
  limits
      ->add_option("--max-sequences", options->layout.max_sequences,
                   "Sequences computed in one step")
      ->capture_default_str();
  limits
      ->add_option("--max-step-tokens", options->layout.max_step_tokens,
                   "Rows computed in one step; long prompts are cut into such chunks")
      ->capture_default_str();
  limits
      ->add_option("--max-queue", options->max_queue,
                   "Sequences that may wait; more are answered with 429")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  limits->add_option("--max-context", options->layout.max_context,
                     "Longest sequence, prompt and answer together [the model's]");
  limits
      ->add_option("--kv-memory", options->kv_memory,
                   "Memory for the KV cache of all ranks, for example 4GiB, or 'auto'")
      ->capture_default_str();
  limits
      ->add_option("--gpu-memory-share", options->gpu_memory_share,
                   "Of a GPU's memory, how much may be in use; the KV cache takes what is left")
      ->check(CLI::Range(0.1, 1.0))
      ->capture_default_str();
  limits
      ->add_option("--step-deadline", options->step_deadline_seconds,
                   "Seconds after which a rank that does not answer is replaced")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();

  auto* http = serve->add_option_group("HTTP");
  http->add_option("--host", options->host, "Address to listen on")->capture_default_str();
  http->add_option("--port", options->port, "Port to listen on; 0 takes a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  http->add_option("--api-key", options->api_key,
                   "Key that clients must send; better set in the environment")
      ->envname("MOE_API_KEY");
  http->add_option("--served-model-name", options->served_model_name,
                   "Name of the model in the API [the folder's name]");
  http->add_option("--drain-seconds", options->drain_seconds,
                   "How long running requests may take to finish at the end")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  serve->add_flag("--verbose", options->verbose, "Show what controller and workers log");
  return serve;
}

int RunServe(const ServeOptions& options) {
  LayoutRequest request = options.layout;
  if (absl::Status status = FillRequest(options, &request); !status.ok()) {
    return Complain(status, kExitUsage);
  }
  const auto backend = ChooseBackend(options, request);
  if (!backend.ok()) return Complain(backend.status(), kExitFailure);
  const char* const backend_name = backend->cuda ? "cuda" : "cpu";
  request.on_gpu = backend->cuda;
  request.num_gpus = backend->num_gpus;
  std::string kernel_level = options.kernel_level;
  if (kernel_level == "auto") {
    kernel_level = std::string(kernels::CpuLevelName(kernels::DetectCpuLevel()));
  } else if (auto level = kernels::ParseCpuLevel(kernel_level); !level.ok()) {
    return Complain(level.status(), kExitUsage);
  }

  // Everything that can be wrong with the model is found here, before 64 processes start.
  auto needs_conversion = model::NeedsConversion(options.model_dir);
  if (!needs_conversion.ok()) return Complain(needs_conversion.status(), kExitFailure);
  if (auto text = gateway::LoadServedModel(options.model_dir, ""); !text.ok()) {
    // The gateway names files by their place in the folder.
    const std::string message = fs::path(options.model_dir) / std::string(text.status().message());
    return Complain(absl::Status(text.status().code(), message), kExitFailure);
  }
  std::optional<model::ConvertedWeights> converted;
  std::string converted_path;
  if (*needs_conversion) {
    std::fprintf(stderr,
                 "warning: the weights are not stored as bfloat16; converting them once into "
                 "memory (convert the checkpoint to save this time and memory)\n");
    auto result = model::ConvertToBf16(options.model_dir, {});
    if (!result.ok()) return Complain(result.status(), kExitFailure);
    converted.emplace(*std::move(result));
    converted_path = converted->path();
  }
  auto checkpoint =
      model::Checkpoint::Open(options.model_dir, {.converted_weights_path = converted_path});
  if (!checkpoint.ok()) return Complain(checkpoint.status(), kExitFailure);
  for (const std::string& warning : (*checkpoint)->warnings()) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  const Machine machine{.num_cores = NumCores(), .available_bytes = AvailableBytes()};
  const auto layout =
      DecideLayout(request, machine, (*checkpoint)->config(), (*checkpoint)->num_weight_bytes());
  if (!layout.ok()) {
    return Complain(layout.status(),
                    absl::IsInvalidArgument(layout.status()) ? kExitUsage : kExitFailure);
  }
  std::fprintf(stderr, "%s\n", model::Describe((*checkpoint)->config()).c_str());
  if (options.backend == "auto") {
    std::fprintf(stderr, "auto: backend %s: %s\n", backend_name, backend->reason.c_str());
  }
  for (const std::string& reason : layout->reasons) {
    std::fprintf(stderr, "auto: %s\n", reason.c_str());
  }
  for (const std::string& warning : layout->warnings) {
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }

  auto run_dir = RunDir::Create();
  if (!run_dir.ok()) return Complain(run_dir.status(), kExitFailure);
  const std::string coordinator = absl::StrCat("unix:", (*run_dir)->path(), "/coordinator.sock");

  std::vector<std::string> controller_args = {
      "local",
      "--model",
      options.model_dir,
      "--run-dir",
      (*run_dir)->path(),
      "--worker",
      SiblingProgram("moe-worker"),
      "--expert-parallel",
      absl::StrCat(layout->expert_parallel),
      "--attention-ranks",
      absl::StrCat(layout->attention_ranks),
      "--attention",
      options.attention,
      "--threads",
      absl::StrCat(layout->threads_per_attention_rank),
      "--max-sequences",
      absl::StrCat(request.max_sequences),
      "--max-step-tokens",
      absl::StrCat(request.max_step_tokens),
      "--max-queue",
      absl::StrCat(options.max_queue),
      "--max-context",
      absl::StrCat(request.max_context),
      "--kv-bytes",
      absl::StrCat(layout->kv_bytes_per_owner),
      "--step-deadline",
      absl::StrCat(options.step_deadline_seconds),
      "--kernel-level",
      kernel_level,
      absl::StrCat("--worker-arg=--backend=", backend_name)};
  if (backend->cuda) {
    controller_args.push_back(
        absl::StrCat("--worker-arg=--gpu-memory-share=", options.gpu_memory_share));
    controller_args.insert(controller_args.end(),
                           {"--gpu-of-rank", absl::StrJoin(layout->gpu_of_rank, ",")});
  }
  if (!converted_path.empty()) {
    controller_args.insert(controller_args.end(), {"--weights", converted_path});
  }
  if (options.verbose) controller_args.push_back("--verbose");

  std::vector<std::string> gateway_args = {"--coordinator",   coordinator,
                                           "--model",         options.model_dir,
                                           "--host",          options.host,
                                           "--port",          absl::StrCat(options.port),
                                           "--drain-seconds", absl::StrCat(options.drain_seconds)};
  if (!options.served_model_name.empty()) {
    gateway_args.insert(gateway_args.end(), {"--served-model-name", options.served_model_name});
  }
  std::vector<std::string> gateway_environment;
  if (!options.api_key.empty()) {
    gateway_environment.push_back(absl::StrCat("MOE_API_KEY=", options.api_key));
  }
  unsetenv("MOE_API_KEY");  // the controller and its workers have no use for it

  StopSignals signals;
  if (!signals.ok()) return Complain(absl::InternalError("signalfd failed"), kExitFailure);
  auto gateway =
      ChildProcess::Start(SiblingProgram("moe-gateway"), gateway_args, gateway_environment);
  if (!gateway.ok()) return Complain(gateway.status(), kExitFailure);
  auto controller = ChildProcess::Start(SiblingProgram("moe-controller"), controller_args, {});
  if (!controller.ok()) return Complain(controller.status(), kExitFailure);
  return Supervisor(&*controller, &*gateway, &signals, options.drain_seconds).Run();
}

}  // namespace moe::cli
