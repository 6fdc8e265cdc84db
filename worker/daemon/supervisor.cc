#include "worker/daemon/supervisor.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "identity/worker_id.h"

namespace moe::worker {
namespace {

// The kubelet keeps the last 2 KiB of the log as the termination message: together with how the
// process ended this fits.
constexpr size_t kMaxLastWords = 1536;

// The end of `text`, from the beginning of a line if there is one.
absl::string_view EndOf(absl::string_view text) {
  if (text.size() <= kMaxLastWords) return text;
  text.remove_prefix(text.size() - kMaxLastWords);
  const size_t line_end = text.find('\n');
  if (line_end != absl::string_view::npos) text.remove_prefix(line_end + 1);
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Start(SupervisorOptions options) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor);
  supervisor->num_processes_ = options.num_processes;
  runtime::LocalProcessesOptions process_options;
  process_options.command = [command = std::move(options.command)](int process,
                                                                   const std::string& /*id*/) {
    return command(process);
  };
  process_options.show_line = std::move(options.show_line);
  process_options.verbose = true;
  auto processes = runtime::LocalProcesses::Create(std::move(process_options));
  if (!processes.ok()) return processes.status();
  supervisor->processes_ = *std::move(processes);
  supervisor->processes_->SetCallbacks(
      {.on_exit = [raw = supervisor.get()](const runtime::WorkerExit& exit) { raw->OnExit(exit); },
       .on_started = nullptr});
  for (int process = 0; process < supervisor->num_processes_; ++process) {
    const auto started = supervisor->processes_->StartWorker(process);
    if (!started.ok()) return started.status();
  }
  return supervisor;
}

Supervisor::~Supervisor() = default;

void Supervisor::Stop() {
  absl::MutexLock lock(&mu_);
  stop_ = true;
}

void Supervisor::OnExit(const runtime::WorkerExit& exit) {
  absl::MutexLock lock(&mu_);
  ++num_ended_;
  // Those that are killed because of it follow.
  if (exit.description != runtime::DescribeExit(0) && !failure_.has_value()) failure_ = exit;
}

absl::Status Supervisor::Wait() {
  bool failed = false;
  {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(this, &Supervisor::ShouldStop));
    failed = failure_.has_value();
  }
  std::thread stopper;
  if (!failed) {
    // As long as they take: whoever sent the signal has a deadline of its own.
    stopper = std::thread([this] { processes_->StopAll(absl::InfiniteDuration()); });
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(this, &Supervisor::IsOver));
  }
  processes_->StopAll(absl::ZeroDuration());
  if (stopper.joinable()) stopper.join();
  absl::MutexLock lock(&mu_);
  if (!failure_.has_value()) return absl::OkStatus();
  const absl::string_view last_words = EndOf(failure_->last_lines);
  return absl::AbortedError(absl::StrCat(last_words, last_words.empty() ? "" : "\n", "process ",
                                         failure_->slot, " ", failure_->description,
                                         "; the pod ends with it"));
}

int Supervisor::exit_code() const {
  absl::MutexLock lock(&mu_);
  return failure_.has_value() ? failure_->exit_code.value_or(1) : 0;
}

absl::StatusOr<std::string> AddressOfProcess(absl::string_view address, int process) {
  constexpr int kMaxPort = 65535;
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("several processes need addresses of the form HOST:PORT, not ", address));
  }
  if (port != 0) port += process * identity::kProcessPortStride;
  if (port > kMaxPort) {
    return absl::InvalidArgumentError(
        absl::StrCat("process ", process, " would listen on port ", port));
  }
  return absl::StrCat(address.substr(0, colon), ":", port);
}

}  // namespace moe::worker
