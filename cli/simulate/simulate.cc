#include "cli/simulate/simulate.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cli/simulate/expert_counts.h"
#include "cli/simulate/report.h"
#include "cli/simulate/step_times_file.h"
#include "cli/simulate/trace.h"
#include "planner/catalog/hardware_files.h"
#include "simulator/failures.h"
#include "simulator/simulation.h"
#include "worker/model/bounded_json.h"
#include "worker/model/file.h"

namespace moe::cli {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr uint64_t kMaxTraceBytes = uint64_t{256} << 20;
constexpr uint64_t kMaxJsonBytes = uint64_t{16} << 20;
constexpr absl::Duration kMaxDuration = absl::Hours(24 * 30);
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);

int Complain(const absl::Status& status) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

absl::StatusOr<std::string> ReadText(const std::string& path, uint64_t max_bytes) {
  const auto file = model::File::Open(path);
  if (!file.ok()) return file.status();
  return file->ReadAll(max_bytes);
}

absl::Status ParseTime(const char* option, const std::string& text, absl::Duration min,
                       absl::Duration* out) {
  if (absl::ParseDuration(text, out) && *out >= min && *out <= kMaxDuration) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(option, " ", model::QuoteForMessage(text),
                                                 " is no time from ", absl::FormatDuration(min),
                                                 " to 30 days, such as 60s or 1m30s"));
}

absl::Status ReadProcessTimes(const SimulateOptions& options, simulator::ProcessTimes* times) {
  struct Time {
    const char* option;
    const std::string* text;
    absl::Duration* out;
  };
  for (const Time& time :
       {Time{"--start-time", &options.start_time, &times->start},
        Time{"--connect-time", &options.connect_time, &times->connect},
        Time{"--report-time", &options.report_time, &times->exit_report},
        Time{"--step-deadline", &options.step_deadline, &times->step_deadline}}) {
    absl::Status status = ParseTime(time.option, *time.text, absl::ZeroDuration(), time.out);
    if (!status.ok()) return status;
  }
  const auto speed = planner::ParseLinkSpeed(options.load_speed);
  if (!speed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--load-speed ", model::QuoteForMessage(options.load_speed), " is no speed such as 2GB/s"));
  }
  times->load_bytes_per_second = *speed;
  return absl::OkStatus();
}

// Requests, duration and what to call them.
absl::Status ReadLoad(const SimulateOptions& options, simulator::Config* config, LoadText* load) {
  if (options.duration.has_value()) {
    absl::Status status =
        ParseTime("--duration", *options.duration, absl::Milliseconds(1), &config->duration);
    if (!status.ok()) return status;
  }
  if (!options.trace.empty()) {
    if (options.arrivals.has_value() || options.input_tokens.has_value() ||
        options.output_tokens.has_value()) {
      return absl::InvalidArgumentError(
          "--trace says when requests come and how long they are: leave --arrivals, "
          "--input-tokens and --output-tokens out");
    }
    const auto text = ReadText(options.trace, kMaxTraceBytes);
    if (!text.ok()) return text.status();
    auto requests = ParseTrace(*text, options.trace);
    if (!requests.ok()) return requests.status();
    if (!options.duration.has_value()) {
      config->duration = requests->back().arrival + absl::Milliseconds(1);
    }
    while (!requests->empty() && requests->back().arrival >= config->duration) {
      requests->pop_back();
    }
    config->requests = *std::move(requests);
    load->arrivals = absl::StrCat("as in ", options.trace);
    load->input_tokens = load->output_tokens = "as in the trace";
    return absl::OkStatus();
  }
  const auto arrivals = simulator::ParseArrivals(options.arrivals.value_or("poisson:10/s"));
  if (!arrivals.ok()) return arrivals.status();
  const auto input = simulator::ParseLength("--input-tokens", options.input_tokens.value_or("512"));
  if (!input.ok()) return input.status();
  const auto output =
      simulator::ParseLength("--output-tokens", options.output_tokens.value_or("128"));
  if (!output.ok()) return output.status();
  auto requests =
      simulator::DrawRequests(*arrivals, *input, *output, config->duration, options.seed);
  if (!requests.ok()) return requests.status();
  config->requests = *std::move(requests);
  load->arrivals = DescribeArrivals(*arrivals);
  load->input_tokens = DescribeLength(*input);
  load->output_tokens = DescribeLength(*output);
  return absl::OkStatus();
}

absl::StatusOr<simulator::RouterSpec> ReadRouter(const std::string& text) {
  auto spec = simulator::ParseRouter(text);
  if (spec.ok()) return spec;
  std::error_code error;
  if (!std::filesystem::exists(text, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.status().message(), ", nor a file that `moe experts --json` wrote"));
  }
  const auto json = ReadText(text, kMaxJsonBytes);
  if (!json.ok()) return json.status();
  return ParseExpertCounts(*json, text);
}

absl::Status ReadConfig(const SimulateOptions& options, simulator::Config* config, LoadText* load) {
  absl::Status status = ReadHardwareOptions(options.hardware, &config->scenario);
  if (!status.ok()) return status;
  if (options.layout.empty()) {
    return absl::InvalidArgumentError(
        "--layout is missing: for example EP64_TP1_PP1_DP1; `moe plan` ranks those that fit");
  }
  const auto layout = planner::ParseLayout(options.layout);
  if (!layout.ok()) return layout.status();
  config->layout = *layout;
  config->scenario.num_gpus = static_cast<int>(layout->num_gpus());
  if (options.overlap) {
    config->scenario.assumptions.overlap = planner::Overlap::kHalfBatches;
  }
  config->seed = options.seed;
  config->limits = options.limits;
  status = ReadProcessTimes(options, &config->times);
  if (!status.ok()) return status;
  status = ReadLoad(options, config, load);
  if (!status.ok()) return status;
  auto router = ReadRouter(options.router);
  if (!router.ok()) return router.status();
  config->router = *std::move(router);
  load->router = config->router.kind == simulator::RouterSpec::Kind::kMeasured
                     ? absl::StrCat("as measured in ", options.router)
                     : DescribeRouter(config->router);
  load->steps = options.steps;
  if (!options.steps.empty()) {
    const auto json = ReadText(options.steps, kMaxJsonBytes);
    if (!json.ok()) return json.status();
    auto times = ParseStepTimes(*json, options.steps);
    if (!times.ok()) return times.status();
    config->step_times = *std::move(times);
  }
  for (const std::string& text : options.failures) {
    const auto failure = simulator::ParseFailure(text);
    if (!failure.ok()) return failure.status();
    config->failures.push_back(*failure);
  }
  return absl::OkStatus();
}

// A line on a terminal that is written over and over.
class ProgressLine {
 public:
  explicit ProgressLine(absl::Duration duration)
      : duration_(duration), is_terminal_(isatty(STDERR_FILENO) == 1) {}
  ~ProgressLine() {
    if (shown_) std::fprintf(stderr, "\r\033[K");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const simulator::Progress& progress) {
    const absl::Time now = absl::Now();
    if (!is_terminal_ || now - last_ < kProgressInterval) return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, "\rsimulated %.0f of %.0f s, %lld requests arrived, %lld ended\033[K",
                 absl::ToDoubleSeconds(progress.simulated), absl::ToDoubleSeconds(duration_),
                 static_cast<long long>(progress.num_arrived),
                 static_cast<long long>(progress.num_ended));
  }

 private:
  const absl::Duration duration_;
  const bool is_terminal_;
  bool shown_ = false;
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace

CLI::App* AddSimulate(CLI::App* app, SimulateOptions* options) {
  CLI::App* simulate = app->add_subcommand(
      "simulate", "What a layout would do under a load, with failures, on GPUs that are not there");
  simulate->footer(
      "The real scheduler, gateway journal and epochs run against modelled devices and links. The\n"
      "same options and seed give the same bytes.\n"
      "\n"
      "moe simulate --model olmoe-1b-7b --layout EP64_TP1_PP1_DP1 --arrivals poisson:200/s\n"
      "moe simulate --model olmoe-1b-7b --layout EP64_TP1_PP1_DP2 --fail 20s:rank=3 --fail "
      "40s:node=9\n"
      "moe simulate --model olmoe-1b-7b --layout DP8 --trace requests.csv -o json");
  AddHardwareOptions(simulate, &options->hardware);
  simulate->add_option("--layout", options->layout,
                       "Expert, tensor and data parallelism, as `moe plan` writes them");

  auto* load = simulate->add_option_group("Load");
  load->add_option("--arrivals", options->arrivals,
                   "poisson:200/s, steady:200/s, or bursts:64/10s (64 at once, each 10 s) "
                   "[poisson:10/s]");
  load->add_option("--input-tokens", options->input_tokens,
                   "Of a request: 512, uniform:128-1024, or lognormal:512:0.8 (median, deviation "
                   "of the logarithm) [512]");
  load->add_option("--output-tokens", options->output_tokens, "The same for its answer [128]");
  load->add_option("--trace", options->trace,
                   "A file of requests instead: seconds,input tokens,output tokens in each line");
  load->add_option("--duration", options->duration,
                   "How long requests come; the run ends with the last answer [60s, or the trace]");
  load->add_option("--router", options->router,
                   "uniform, zipf:1.1, or a file that `moe experts --json` wrote")
      ->capture_default_str();
  load->add_option("--seed", options->seed, "Of everything that is drawn")->capture_default_str();

  auto* limits = simulate->add_option_group("Limits of a group");
  limits
      ->add_option("--max-sequences", options->limits.max_sequences,
                   "That run at once; 0: as many as --max-step-tokens")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  limits
      ->add_option("--max-step-tokens", options->limits.max_step_tokens,
                   "Rows of one step; 0: 4096")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  limits
      ->add_option("--max-queue", options->limits.max_queue,
                   "Sequences that may wait; more get a 429")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  limits
      ->add_option("--kv-tokens", options->limits.kv_tokens,
                   "KV cache of one attention rank; 0: what the weights leave of its GPU")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();

  simulate->add_option("--steps", options->steps,
                       "A file of step times measured on real ranks, in place of the planner's: "
                       "{\"source\": \"...\", \"decode\": [[rows, seconds], ...], "
                       "\"prefill\": [...]}");
  auto* faults = simulate->add_option_group("Failures");
  faults->add_option("--fail", options->failures,
                     "20s:rank=3 (its process ends), 20s:hang=3 (it says nothing more), "
                     "20s:node=0; may be given several times");
  faults->add_option("--start-time", options->start_time, "A new pod's, until it connects")
      ->capture_default_str();
  faults->add_option("--load-speed", options->load_speed, "At which a rank reads its weights")
      ->capture_default_str();
  faults->add_option("--connect-time", options->connect_time, "Of a group's communicators")
      ->capture_default_str();
  faults
      ->add_option("--report-time", options->report_time,
                   "From the end of a process until the controller hears of it")
      ->capture_default_str();
  faults
      ->add_option("--step-deadline", options->step_deadline,
                   "After which a rank that says nothing is given up")
      ->capture_default_str();

  simulate->add_flag("--overlap", options->overlap,
                     "Two half batches take turns where that is faster, as in `moe plan`");
  simulate->add_option("-o,--output", options->output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  return simulate;
}

int RunSimulate(const SimulateOptions& options) {
  simulator::Config config;
  LoadText load;
  if (absl::Status status = ReadConfig(options, &config, &load); !status.ok()) {
    return Complain(status);
  }
  absl::StatusOr<simulator::Result> result;
  {
    ProgressLine line(config.duration);
    result = Simulate(config, [&line](const simulator::Progress& p) { line.Show(p); });
  }
  if (!result.ok()) return Complain(result.status());
  if (options.output == "json") {
    std::printf("%s\n", SimulationToJson(config, load, *result).dump(2).c_str());
  } else {
    std::printf("%s", FormatSimulation(config, load, *result).c_str());
  }
  return 0;
}

}  // namespace moe::cli
