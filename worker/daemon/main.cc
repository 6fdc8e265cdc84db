// moe-worker: one rank of a group. Started by the controller's runtime (or as a pod's container).
// With --processes, the supervisor of several ranks in one pod, each of them this program again.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "identity/credentials.h"
#include "identity/enrollment.h"
#include "identity/worker_id.h"
#include "kernels/context.h"
#include "runtime/exit_codes.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "telemetry/status_server.h"
#include "worker/daemon/backend_choice.h"
#include "worker/daemon/inspect.h"
#include "worker/daemon/supervisor.h"
#include "worker/daemon/worker.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/exchange/tcp_listener.h"
#include "worker/membership/membership.h"
#include "worker/model/backend.h"
#include "worker/model/mapping_fault.h"
#include "worker/service/engine_service.h"

namespace {

struct Flags {
  bool inspect = false;
  std::string coordinator;
  std::string group;
  std::string worker_id;
  int slot_hint = -1;
  std::string model;
  std::string weights;
  std::string engine_address;
  std::string exchange_address;
  std::string metrics_address = "127.0.0.1:0";
  std::string advertise_metrics;
  std::string kernel_level = "auto";
  std::string backend = "cpu";
  int gpu = 0;
  bool shares_gpu = false;
  double gpu_memory_share = 0.9;
  std::string cuda_graphs = "on";
  std::string overlap_kernels = "on";
  bool probe = false;
  std::string token_file;
  std::string ca_file;
  std::string identity_dir;
  bool finish_epoch = false;
  int num_processes = 1;
  int process = -1;  // of these; -1: none of several
  bool gpu_per_process = false;
};

constexpr char kProcessFlag[] = "--process";
constexpr int kMaxProcesses = 16;

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_flag("--inspect", flags->inspect,
                "Print what the model is made of, as JSON, and end; needs --model alone");
  app->add_option("--coordinator", flags->coordinator, "Address of the coordinator");
  app->add_option("--group", flags->group,
                  "Group that this process was started for: NAMESPACE/DEPLOYMENT/INDEX");
  app->add_option("--worker-id", flags->worker_id, "Name of this worker");
  app->add_option("--slot-hint", flags->slot_hint, "Rank that this process was started for");
  app->add_flag("--probe", flags->probe,
                "Print which backend --backend is on this machine, and why, and end");
  app->add_option("--model", flags->model, "Folder of the model");
  app->add_option("--weights", flags->weights, "Converted weights to use instead of the folder's");
  app->add_option("--engine-address", flags->engine_address,
                  "Where gateways reach this rank when it leads");
  app->add_option("--exchange-address", flags->exchange_address,
                  "IP:PORT where ranks of other machines reach this one");
  app->add_option("--metrics-address", flags->metrics_address, "HOST:PORT of GET /metrics")
      ->capture_default_str();
  app->add_option("--advertise-metrics", flags->advertise_metrics,
                  "HOST:PORT where others reach it [the metrics address]");
  app->add_flag("--finish-epoch", flags->finish_epoch,
                "After SIGTERM, go on until the running epoch ends or the controller says so")
      ->envname("MOE_FINISH_EPOCH");
  app->add_option("--kernel-level", flags->kernel_level, "auto, plain, avx2, avx512 or avx512_bf16")
      ->capture_default_str();
  app->add_option("--backend", flags->backend,
                  "cpu, cuda, or auto: the GPU where there is one that can be used")
      ->check(CLI::IsMember({"cpu", "cuda", "auto"}))
      ->envname("MOE_BACKEND")
      ->capture_default_str();
  app->add_option("--gpu", flags->gpu, "Which GPU, of those that this process sees")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app->add_flag("--shares-gpu", flags->shares_gpu,
                "For tests: other ranks of the group use the same GPU. NCCL then takes each for a "
                "host of its own, and rows go over sockets");
  app->add_option(
         "--gpu-memory-share", flags->gpu_memory_share,
         "Of a GPU's memory, how much may be in use; the KV cache takes what is left of it")
      ->check(CLI::Range(0.1, 1.0))
      ->capture_default_str();
  app->add_option("--cuda-graphs", flags->cuda_graphs,
                  "on, or off: launch decode steps kernel by kernel. The same at all ranks of a "
                  "group")
      ->check(CLI::IsMember({"on", "off"}))
      ->envname("MOE_CUDA_GRAPHS")
      ->capture_default_str();
  app->add_option("--overlap-kernels", flags->overlap_kernels,
                  "on: a GPU's kernel begins while the one before it still runs, from compute "
                  "capability 9.0 on; or off")
      ->check(CLI::IsMember({"on", "off"}))
      ->envname("MOE_OVERLAP_KERNELS")
      ->capture_default_str();
  CLI::Option* processes =
      app->add_option("--processes", flags->num_processes,
                      "Run as so many workers: process I is called WORKER_ID/I and listens on "
                      "ports 10 x I above those given")
          ->check(CLI::Range(1, kMaxProcesses));
  app->add_flag("--gpu-per-process", flags->gpu_per_process,
                "With --processes, process I sees GPU I alone")
      ->needs(processes);
  app->add_option(kProcessFlag, flags->process, "Set by --processes for each process")
      ->check(CLI::Range(0, kMaxProcesses - 1))
      ->needs(processes)
      ->group("");
  CLI::Option* token = app->add_option("--token-file", flags->token_file,
                                       "Service-account token that buys a certificate");
  CLI::Option* ca =
      app->add_option("--ca-file", flags->ca_file, "The coordinator's certificate authority");
  CLI::Option* identity = app->add_option("--identity-dir", flags->identity_dir,
                                          "Private folder in memory for key and certificate");
  token->needs(ca)->needs(identity);
  ca->needs(token);
  identity->needs(token);
  app->final_callback([flags] {
    if (flags->probe) return;
    if (flags->model.empty()) throw CLI::RequiredError("--model");
    if (flags->inspect) return;
    if (flags->coordinator.empty()) throw CLI::RequiredError("--coordinator");
    if (flags->worker_id.empty()) throw CLI::RequiredError("--worker-id");
    if (flags->engine_address.empty()) throw CLI::RequiredError("--engine-address");
    if (!flags->token_file.empty() && flags->group.rfind('/') == std::string::npos) {
      throw CLI::ValidationError("--group", "NAMESPACE/DEPLOYMENT/INDEX is needed with TLS");
    }
  });
}

// Waits for SIGTERM or SIGINT and calls what is to end then.
class StopSignal {
 public:
  explicit StopSignal(int signal_fd) : thread_([this, signal_fd] { Wait(signal_fd); }) {}
  // Sends the signal itself if none came.
  ~StopSignal() {
    OnStop([] {});
    kill(getpid(), SIGTERM);
    thread_.join();
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Called once, on another thread, or here if the signal has come; replaces what was set before.
  void OnStop(std::function<void()> call) {
    absl::MutexLock lock(&mu_);
    call_ = std::move(call);
    if (stopped_) call_();
  }

 private:
  void Wait(int signal_fd) {
    signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof(info)) != sizeof(info)) {
    }
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    if (call_) call_();
  }

  absl::Mutex mu_;
  std::function<void()> call_ ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses the others
};

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return 1;
}

// For `moe serve`, which is built without CUDA: what computes and, of GPUs, how many there are.
int Probe(const Flags& flags) {
  const auto decision = moe::worker::DecideBackend({.backend = flags.backend, .gpu = flags.gpu});
  if (!decision.ok()) {
    std::fprintf(stderr, "%s\n", std::string(decision.status().message()).c_str());
    return 1;
  }
  std::printf("backend %s: %s\n", decision->cuda ? "cuda" : "cpu", decision->reason.c_str());
  if (decision->cuda) std::printf("gpus: %d\n", decision->num_gpus);
  return 0;
}

// Turns the flags that all processes share into those of this one.
absl::Status BecomeProcess(Flags* flags) {
  if (flags->process >= flags->num_processes) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no process ", flags->process, " of ", flags->num_processes));
  }
  for (std::string* address : {&flags->engine_address, &flags->exchange_address,
                               &flags->metrics_address, &flags->advertise_metrics}) {
    if (address->empty()) continue;
    auto own = moe::worker::AddressOfProcess(*address, flags->process);
    if (!own.ok()) return own.status();
    *address = *std::move(own);
  }
  flags->worker_id =
      moe::identity::WorkerId(flags->worker_id, flags->process, flags->num_processes);
  if (!flags->identity_dir.empty()) absl::StrAppend(&flags->identity_dir, "/", flags->process);
  // Before any thread, and before CUDA looks.
  if (flags->gpu_per_process) {
    setenv("CUDA_VISIBLE_DEVICES", absl::StrCat(flags->process).c_str(), /*overwrite=*/1);
  }
  return absl::OkStatus();
}

// NCCL refuses two ranks of one communicator on one GPU, which it knows by host and bus id. Before
// any thread.
void BecomeHost(const std::string& name) { setenv("NCCL_HOSTID", name.c_str(), /*overwrite=*/1); }

int Supervise(const Flags& flags, const std::vector<std::string>& arguments, int stop_fd) {
  // By its own path: a process called "exe" tells nobody what it is.
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (error) return Fail(absl::InternalError(absl::StrCat("/proc/self/exe: ", error.message())));
  auto supervisor = moe::worker::Supervisor::Start(
      {.num_processes = flags.num_processes,
       .command =
           [&](int process) {
             std::vector<std::string> command = {program};
             command.insert(command.end(), arguments.begin(), arguments.end());
             command.emplace_back(kProcessFlag);
             command.push_back(absl::StrCat(process));
             return command;
           },
       .show_line = nullptr});
  if (!supervisor.ok()) return Fail(supervisor.status());
  StopSignal stop(stop_fd);
  stop.OnStop([&supervisor] { (*supervisor)->Stop(); });
  const absl::Status outcome = (*supervisor)->Wait();
  stop.OnStop([] {});
  if (!outcome.ok()) Fail(outcome);
  return (*supervisor)->exit_code();
}

int Run(const Flags& flags, int stop_fd) {
  moe::kernels::CpuLevel level = moe::kernels::DetectCpuLevel();
  if (flags.kernel_level != "auto") {
    const auto parsed = moe::kernels::ParseCpuLevel(flags.kernel_level);
    if (!parsed.ok()) return Fail(parsed.status());
    level = *parsed;
  }
  const moe::worker::BackendOptions backend_options = {
      .backend = flags.backend,
      .gpu = flags.gpu,
      .gpu_memory_share = flags.gpu_memory_share,
      .cuda_graphs = flags.cuda_graphs == "on",
      .overlap_kernels = flags.overlap_kernels == "on",
      .cpu_level = level};
  const auto decision = moe::worker::DecideBackend(backend_options);
  if (!decision.ok()) return Fail(decision.status());
  auto made_backend = moe::worker::MakeBackend(backend_options, *decision);
  if (!made_backend.ok()) return Fail(made_backend.status());
  const std::unique_ptr<moe::model::Backend> backend = *std::move(made_backend);
  spdlog::info("backend {}: {}", decision->cuda ? "cuda" : "cpu", decision->reason);
  std::unique_ptr<moe::worker::DeviceGroups> device_groups;
  if (decision->cuda) device_groups = moe::worker::MakeDeviceGroups();
  moe::worker::WorkerMetrics metrics;
  auto status_server = moe::telemetry::StatusServer::Start(
      {.address = flags.metrics_address, .metrics = &metrics, .not_ready_reason = nullptr});
  if (!status_server.ok()) return Fail(status_server.status());
  std::unique_ptr<moe::identity::Enrollment> enrollment;
  StopSignal stop(stop_fd);
  if (!flags.token_file.empty()) {
    auto started = moe::identity::Enrollment::Start({.coordinator = flags.coordinator,
                                                     .token_file = flags.token_file,
                                                     .ca_file = flags.ca_file,
                                                     .identity_dir = flags.identity_dir});
    if (!started.ok()) return Fail(started.status());
    enrollment = *std::move(started);
    stop.OnStop([&enrollment] { enrollment->Stop(); });
    if (!enrollment->WaitForCertificate()) return 0;
  }

  moe::engine::EngineServiceOptions service_options;
  service_options.address = flags.engine_address;
  service_options.numerics_id = backend->numerics_id();
  if (enrollment != nullptr) {
    service_options.credentials = moe::identity::MakeServerCredentials(
        enrollment->files(), moe::identity::PeerCertificate::kRequired);
    service_options.deployment = flags.group.substr(0, flags.group.rfind('/'));
  }
  auto service = moe::engine::EngineService::Start(service_options);
  if (!service.ok()) return Fail(service.status());
  std::unique_ptr<moe::exchange::TcpListener> listener;
  if (!flags.exchange_address.empty()) {
    auto started = moe::exchange::TcpListener::Start(flags.exchange_address);
    if (!started.ok()) return Fail(started.status());
    listener = *std::move(started);
  }

  auto worker = std::make_unique<moe::worker::Worker>(
      moe::worker::WorkerOptions{.model_dir = flags.model,
                                 .converted_weights_path = flags.weights,
                                 .backend = backend.get(),
                                 .exchange_listener = listener.get(),
                                 .device_groups = device_groups.get()},
      service->get(), &metrics);
  moe::membership::MembershipOptions options;
  options.coordinator_address = flags.coordinator;
  if (enrollment != nullptr) {
    options.credentials = moe::identity::MakeChannelCredentials(enrollment->files());
  }
  options.group = flags.group;
  options.worker_id = flags.worker_id;
  options.slot_hint = flags.slot_hint;
  options.numerics_id = backend->numerics_id();
  options.engine_address = flags.engine_address;
  options.metrics_address =
      flags.advertise_metrics.empty() ? (*status_server)->address() : flags.advertise_metrics;
  if (listener != nullptr) options.exchange_address = listener->address();
  auto membership = moe::membership::Membership::Start(options, worker.get());
  if (!membership.ok()) return Fail(membership.status());
  worker->Start(membership->get());

  stop.OnStop([&worker, &flags] {
    if (flags.finish_epoch) {
      worker->FinishEpoch();
    } else {
      worker->Shutdown();
    }
  });
  const absl::Status outcome = worker->Wait();
  stop.OnStop([] {});
  // An Unable must reach the controller before this process ends.
  (*membership)->Stop(absl::Seconds(2));
  if (backend->IsLost(outcome)) {
    // A GPU that hangs would keep whoever frees its memory.
    Fail(outcome);
    spdlog::shutdown();
    std::_Exit(moe::runtime::kGpuLostExitCode);
  }
  // Its engine thread may still tell the membership something.
  worker.reset();
  if (outcome.ok()) return 0;
  return Fail(outcome);
}

}  // namespace

int main(int argc, char** argv) {
  // Blocked before any thread starts, so that every thread inherits it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  moe::identity::UseSystemResolver();
  const int stop_fd = signalfd(-1, &signals, SFD_CLOEXEC);

  Flags flags;
  CLI::App app{"One expert-parallel rank: loads its experts and serves them to its group."};
  AddFlags(&app, &flags);
  CLI11_PARSE(app, argc, argv);
  if (flags.probe) return Probe(flags);
  if (flags.inspect) return moe::worker::RunInspect(flags.model);

  spdlog::set_default_logger(spdlog::stderr_logger_mt("worker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  if (flags.num_processes > 1 && flags.process < 0) {
    return Supervise(flags, std::vector<std::string>(argv + 1, argv + argc), stop_fd);
  }
  if (flags.process >= 0) {
    if (const absl::Status status = BecomeProcess(&flags); !status.ok()) return Fail(status);
  }
  if (flags.shares_gpu) {
    spdlog::warn("other ranks share GPU {}: for tests, rows go over sockets", flags.gpu);
    BecomeHost(flags.worker_id);
  }
  const moe::model::MappingFaultReporter fault_reporter;
  return Run(flags, stop_fd);
}
