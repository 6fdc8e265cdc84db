#include "cli/calibrate/calibrate.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/calibrate/exchange_times.h"
#include "cli/calibrate/host_times.h"
#include "cli/calibrate/kernel_times.h"
#include "cli/calibrate/machine_file.h"
#include "cli/plan/inputs.h"
#include "worker/exchange/turns.h"
#include "worker/model/config.h"
#include "worker/model/reference_model.h"

namespace moe::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

int Complain(const absl::Status& status) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

absl::StatusOr<model::ModelConfig> ReadConfig(const std::string& path, std::string* name) {
  if (path.empty()) {
    *name = "olmoe-1b-7b";
    return model::OlmoeConfig();
  }
  const auto file = ReadConfigFile(
      path, absl::StrCat("--model '", path, "' is no folder with a config.json and no such file"));
  if (!file.ok()) return file.status();
  *name = file->model_name;
  return model::ParseModelConfig(file->json);
}

// What /proc/NAME says behind "FIELD :" the first time; empty if it does not.
std::string ProcField(const char* path, absl::string_view field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    if (absl::StripAsciiWhitespace(absl::string_view(line).substr(0, colon)) != field) continue;
    return std::string(absl::StripAsciiWhitespace(absl::string_view(line).substr(colon + 1)));
  }
  return "";
}

double MemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  return pages > 0 ? static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE)) : 0;
}

// Written beside its place first, so that a file that is there is whole.
absl::Status WriteWhole(const std::string& path, const std::string& text) {
  const std::string part = path + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file || std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    std::remove(part.c_str());
    return absl::UnavailableError(absl::StrCat("cannot write --output ", path, ": ", why));
  }
  return absl::OkStatus();
}

// Minutes of measuring should not be lost to a folder that is not there.
absl::Status CheckWritable(const std::string& path) {
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  if (path.empty() || access(folder.c_str(), W_OK) != 0 || fs::is_directory(path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--output '", path,
                     "' can't be written: name a file in a folder that is "
                     "there and may be written to"));
  }
  return absl::OkStatus();
}

class ProgressLine {
 public:
  ProgressLine() : is_terminal_(isatty(STDERR_FILENO) == 1) {}
  ~ProgressLine() {
    if (is_terminal_) std::fprintf(stderr, "\r\033[K");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(std::string_view what, double share) const {
    if (!is_terminal_) return;
    std::fprintf(stderr, "\rmeasuring: %s, %.0f%%\033[K", std::string(what).c_str(), share * 100);
  }

 private:
  const bool is_terminal_;
};

absl::StatusOr<Measurements> Measure(const CalibrateOptions& options,
                                     const model::ModelConfig& config, const std::string& name) {
  const ProgressLine line;
  const Progress progress = [&line](std::string_view what, double share) {
    line.Show(what, share);
  };
  Measurements measured;
  measured.date = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  measured.cpu = ProcField("/proc/cpuinfo", "model name");
  if (measured.cpu.empty()) measured.cpu = "a CPU without a name";
  measured.model = name;
  measured.num_cores = std::max(1, static_cast<int>(exchange::AllowedCores().size()));
  measured.num_rounds = options.num_rounds;
  measured.memory_bytes = MemoryBytes();
  const KernelTimeOptions kernels = {.num_cores = measured.num_cores,
                                     .num_rounds = options.num_rounds,
                                     .level = kernels::DetectCpuLevel()};
  measured.level = kernels::CpuLevelName(kernels.level);
  // First what starts processes: later there are threads.
  auto exchange = MeasureExchange(
      config, {.max_ranks = options.max_ranks, .num_rounds = options.num_rounds}, progress);
  if (!exchange.ok()) return exchange.status();
  measured.exchange = *std::move(exchange);
  auto host = MeasureHost(kernels, progress);
  if (!host.ok()) return host.status();
  measured.host = *host;
  measured.kernels = MeasureKernels(config, kernels, progress);
  return measured;
}

std::string Summary(const Machine& machine, const std::string& path) {
  const planner::Device& d = machine.device;
  const planner::ExchangeLibrary& l = machine.library;
  return absl::StrFormat(
      "machine   %s\n"
      "products  %.1f GB/s of weights (%.1f GB/s by one core), %.1f GFLOP/s, %.0f%% of the shorter "
      "hidden; each measured one within %.0f%%\n"
      "attention %.1f GFLOP/s\n"
      "exchange  %.1f us, %.2f us for each message, %.1f GB/s; each measured one within %.0f%%\n"
      "host      %.1f us for a step, %.1f us for a layer\n"
      "written to %s; use it with: moe plan --machine %s --gpus RANKS --model MODEL\n",
      d.title, d.bandwidth() / 1e9, d.shared_cores->core_bytes_per_second / 1e9, d.bf16_flops / 1e9,
      d.read_overlap * 100, machine.worst_product_error * 100, d.attention_flops / 1e9,
      l.node_dispatch_latency_seconds * 1e6, l.node_message_seconds * 1e6,
      d.node_link_bytes_per_second / 1e9, machine.worst_exchange_error * 100,
      d.host->step_seconds * 1e6, d.host->layer_seconds * 1e6, path, path);
}

}  // namespace

CLI::App* AddCalibrate(CLI::App* app, CalibrateOptions* options) {
  CLI::App* calibrate = app->add_subcommand(
      "calibrate", "Measure this machine for moe plan and moe simulate (about a minute)");
  calibrate->footer(
      "The machine should have nothing else to do. The file says what ranks on CPUs that share\n"
      "this machine reach; nothing of GPUs or networks is measured.\n"
      "\n"
      "moe calibrate --model ./OLMoE-1B-7B-0125-Instruct --output machine.json\n"
      "moe plan --machine machine.json --model olmoe-1b-7b --gpus 64 --layout EP64+A1+all-to-all");
  calibrate->add_option("--model", options->model,
                        "Folder with a config.json, or the file, whose shapes the kernels are "
                        "measured with; weights are not read [those of OLMoE-1B-7B]");
  calibrate->add_option("--output", options->output, "The file to write")->capture_default_str();
  calibrate->add_option("--rounds", options->num_rounds, "Of all measurements; medians count")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  calibrate
      ->add_option("--max-ranks", options->max_ranks, "Processes to start at most for the exchange")
      ->check(CLI::Range(2, 64))
      ->capture_default_str();
  return calibrate;
}

int RunCalibrate(const CalibrateOptions& options) {
  std::string name;
  const auto config = ReadConfig(options.model, &name);
  if (!config.ok()) return Complain(config.status());
  if (absl::Status status = CheckWritable(options.output); !status.ok()) return Complain(status);
  const auto measured = Measure(options, *config, name);
  if (!measured.ok()) return Complain(measured.status());
  const auto machine = DescribeMachine(*measured);
  if (!machine.ok()) return Complain(machine.status());
  absl::Status status = WriteWhole(options.output, MachineFileText(*measured, *machine));
  if (!status.ok()) return Complain(status);
  std::printf("%s", Summary(*machine, options.output).c_str());
  return 0;
}

}  // namespace moe::cli
