// Whole workers of GPUs as threads of this process: the daemon's Worker with its membership, its
// service and its listener, on the emulated GPU, over a fake NCCL. A Runtime for the coordinator.
#ifndef MOE_TESTS_WORKER_DAEMON_WORKERS_HERE_H_
#define MOE_TESTS_WORKER_DAEMON_WORKERS_HERE_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "runtime/runtime.h"
#include "tests/system/fake_nccl_group.h"
#include "worker/cuda/backend.h"
#include "worker/daemon/worker.h"
#include "worker/exchange/tcp_listener.h"
#include "worker/membership/membership.h"
#include "worker/service/engine_service.h"

namespace moe::worker {

// Each worker lives in a thread of its own, as main.cc's does in a process.
class WorkersHere : public runtime::Runtime {
 public:
  struct Options {
    std::string folder;  // for sockets; the coordinator's is coordinator.sock
    std::string model_dir;
    // NCCL of the rank.
    std::function<NcclGroupsOptions(int slot)> nccl;
  };

  explicit WorkersHere(Options options) : options_(std::move(options)) {}
  ~WorkersHere() override {
    StopAll(absl::ZeroDuration());
    for (auto& [id, process] : processes_) process.thread.join();
  }

  void SetCallbacks(Callbacks callbacks) override {
    const absl::MutexLock lock(&mutex_);
    callbacks_ = std::move(callbacks);
  }
  absl::StatusOr<std::optional<std::string>> StartWorker(int slot) override {
    const absl::MutexLock lock(&mutex_);
    if (stopped_) return absl::FailedPreconditionError("stopped");
    std::string id = absl::StrCat("worker-", slot, "-", ++num_started_);
    Process& process = processes_[id];
    process.slot = slot;
    process.thread = std::thread([this, slot, id] { Run(slot, id); });
    return id;
  }
  void Kill(std::string_view worker_id, std::string_view /*reason*/) override {
    const absl::MutexLock lock(&mutex_);
    const auto found = processes_.find(worker_id);
    if (found != processes_.end()) End(&found->second);
  }
  void StopAll(absl::Duration /*grace*/) override {
    const absl::MutexLock lock(&mutex_);
    stopped_ = true;
    for (auto& [id, process] : processes_) End(&process);
    const auto none_left = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return num_ended_ == num_started_;
    };
    mutex_.Await(absl::Condition(&none_left));
  }

  void EndSlot(int slot) {
    const absl::MutexLock lock(&mutex_);
    for (auto& [id, process] : processes_) {
      if (process.slot == slot) End(&process);
    }
  }
  int num_started() {
    const absl::MutexLock lock(&mutex_);
    return num_started_;
  }

 private:
  struct Process {
    int slot = 0;
    std::thread thread;
    Worker* worker = nullptr;  // while it lives
    bool is_to_end = false;
  };

  static void End(Process* process) {
    process->is_to_end = true;
    if (process->worker != nullptr) process->worker->Shutdown();
  }

  // What main.cc makes of one process.
  void Run(int slot, const std::string& id) {
    auto backend = cuda::CudaBackend::Create({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    NcclGroups device_groups(options_.nccl(slot));
    auto listener = exchange::TcpListener::Start("127.0.0.1:0");
    ASSERT_TRUE(listener.ok()) << listener.status();
    engine::EngineServiceOptions service_options;
    service_options.address = absl::StrCat("unix:", options_.folder, "/", id, ".sock");
    service_options.numerics_id = (*backend)->numerics_id();
    auto service = engine::EngineService::Start(service_options);
    ASSERT_TRUE(service.ok()) << service.status();
    WorkerMetrics metrics;
    auto worker = std::make_unique<Worker>(WorkerOptions{.model_dir = options_.model_dir,
                                                         .converted_weights_path = "",
                                                         .backend = backend->get(),
                                                         .exchange_listener = listener->get(),
                                                         .device_groups = &device_groups},
                                           service->get(), &metrics);
    membership::MembershipOptions membership_options;
    membership_options.coordinator_address =
        absl::StrCat("unix:", options_.folder, "/coordinator.sock");
    membership_options.worker_id = id;
    membership_options.slot_hint = slot;
    membership_options.numerics_id = (*backend)->numerics_id();
    membership_options.engine_address = service_options.address;
    membership_options.metrics_address = "127.0.0.1:1";
    membership_options.exchange_address = (*listener)->address();
    auto membership = membership::Membership::Start(membership_options, worker.get());
    ASSERT_TRUE(membership.ok()) << membership.status();
    worker->Start(membership->get());
    {
      const absl::MutexLock lock(&mutex_);
      Process& process = processes_[id];
      process.worker = worker.get();
      if (process.is_to_end) worker->Shutdown();
    }
    const absl::Status outcome = worker->Wait();
    (*membership)->Stop(absl::Seconds(5));
    Callbacks callbacks;
    {
      const absl::MutexLock lock(&mutex_);
      processes_[id].worker = nullptr;
      callbacks = callbacks_;
    }
    worker.reset();
    callbacks.on_exit({.slot = slot,
                       .worker_id = id,
                       .description = "ended",
                       .last_lines = std::string(outcome.message())});
    const absl::MutexLock lock(&mutex_);
    ++num_ended_;
  }

  const Options options_;
  absl::Mutex mutex_;
  Callbacks callbacks_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Process, std::less<>> processes_ ABSL_GUARDED_BY(mutex_);
  int num_started_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_ended_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moe::worker

#endif  // MOE_TESTS_WORKER_DAEMON_WORKERS_HERE_H_
