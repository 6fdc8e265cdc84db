// moe-worker: one rank of a group. Started by the controller's runtime (or as a pod's container).
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "kernels/context.h"
#include "kernels/numerics.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"
#include "worker/daemon/metrics_server.h"
#include "worker/daemon/worker.h"
#include "worker/daemon/worker_metrics.h"
#include "worker/membership/membership.h"
#include "worker/model/mapping_fault.h"
#include "worker/service/engine_service.h"

namespace {

struct Flags {
  std::string coordinator;
  std::string worker_id;
  int slot_hint = -1;
  std::string model;
  std::string weights;
  std::string engine_address;
  std::string metrics_address = "127.0.0.1:0";
  std::string kernel_level = "auto";
};

int Fail(const absl::Status& status) {
  spdlog::error("{}", std::string(status.message()));
  return 1;
}

int Run(const Flags& flags, int stop_fd) {
  moe::kernels::CpuLevel level = moe::kernels::DetectCpuLevel();
  if (flags.kernel_level != "auto") {
    const auto parsed = moe::kernels::ParseCpuLevel(flags.kernel_level);
    if (!parsed.ok()) return Fail(parsed.status());
    level = *parsed;
  }
  moe::worker::WorkerMetrics metrics;
  auto metrics_server = moe::worker::MetricsServer::Start(flags.metrics_address, &metrics);
  if (!metrics_server.ok()) return Fail(metrics_server.status());
  moe::engine::EngineServiceOptions service_options;
  service_options.address = flags.engine_address;
  service_options.numerics_id = std::string(moe::kernels::kNumericsId);
  auto service = moe::engine::EngineService::Start(service_options);
  if (!service.ok()) return Fail(service.status());

  moe::worker::Worker worker(
      {.model_dir = flags.model, .converted_weights_path = flags.weights, .cpu_level = level},
      service->get(), &metrics);
  moe::membership::MembershipOptions options;
  options.coordinator_address = flags.coordinator;
  options.worker_id = flags.worker_id;
  options.slot_hint = flags.slot_hint;
  options.numerics_id = std::string(moe::kernels::kNumericsId);
  options.engine_address = flags.engine_address;
  options.metrics_address = (*metrics_server)->address();
  auto membership = moe::membership::Membership::Start(options, &worker);
  if (!membership.ok()) return Fail(membership.status());
  worker.Start(membership->get());

  std::thread stopper([stop_fd, &worker] {
    signalfd_siginfo info;
    while (read(stop_fd, &info, sizeof(info)) != sizeof(info)) {
    }
    worker.Shutdown();
  });
  const absl::Status outcome = worker.Wait();
  // An Unable must reach the controller before this process ends.
  (*membership)->Stop(absl::Seconds(2));
  kill(getpid(), SIGTERM);  // ends the stopper if the end was not a signal's
  stopper.join();
  return outcome.ok() ? 0 : Fail(outcome);
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
  const int stop_fd = signalfd(-1, &signals, SFD_CLOEXEC);

  Flags flags;
  CLI::App app{"One expert-parallel rank: loads its experts and serves them to its group."};
  app.add_option("--coordinator", flags.coordinator, "Address of the coordinator")->required();
  app.add_option("--worker-id", flags.worker_id, "Name of this worker")->required();
  app.add_option("--slot-hint", flags.slot_hint, "Rank that this process was started for");
  app.add_option("--model", flags.model, "Folder of the model")->required();
  app.add_option("--weights", flags.weights, "Converted weights to use instead of the folder's");
  app.add_option("--engine-address", flags.engine_address,
                 "Where gateways reach this rank when it leads")
      ->required();
  app.add_option("--metrics-address", flags.metrics_address, "HOST:PORT of GET /metrics")
      ->capture_default_str();
  app.add_option("--kernel-level", flags.kernel_level, "auto, plain, avx2, avx512 or avx512_bf16")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  spdlog::set_default_logger(spdlog::stderr_logger_mt("worker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  const moe::model::MappingFaultReporter fault_reporter;
  return Run(flags, stop_fd);
}
