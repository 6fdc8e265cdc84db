#include "cli/plan/plan.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/plan/founding_report.h"
#include "cli/plan/inputs.h"
#include "cli/plan/json_report.h"
#include "cli/plan/manifest.h"
#include "cli/plan/plot.h"
#include "cli/plan/report.h"
#include "planner/catalog/built_in.h"
#include "planner/compare.h"
#include "planner/founding.h"
#include "planner/published_models.h"
#include "planner/search.h"

namespace moe::cli {
namespace {

using planner::Layout;
using planner::Scenario;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kFoundingGpus = 64;

int Complain(const absl::Status& status) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

absl::StatusOr<std::vector<Layout>> ParseLayouts(const std::vector<std::string>& texts) {
  std::vector<Layout> layouts;
  for (const std::string& text : texts) {
    const auto layout = planner::ParseLayout(text);
    if (!layout.ok()) return layout.status();
    if (std::find(layouts.begin(), layouts.end(), *layout) != layouts.end()) {
      return absl::InvalidArgumentError(absl::StrCat("layout '", text, "' is given twice"));
    }
    layouts.push_back(*layout);
  }
  return layouts;
}

absl::StatusOr<Scenario> MakeScenario(const PlanOptions& options,
                                      const std::vector<Layout>& layouts) {
  Scenario scenario;
  HardwareOptions hardware = options.hardware;
  if (hardware.model.empty() && options.founding) hardware.model = planner::Olmoe1b7b().name;
  absl::Status status = ReadHardwareOptions(hardware, &scenario);
  if (!status.ok()) return status;
  if (options.gpus.has_value()) {
    scenario.num_gpus = *options.gpus;
  } else if (options.founding) {
    scenario.num_gpus = kFoundingGpus;
  } else if (!options.compare.empty()) {
    int64_t most = 1;
    for (const Layout& layout : layouts) most = std::max(most, layout.num_gpus());
    scenario.num_gpus = static_cast<int>(std::min<int64_t>(most, 65536));
  } else {
    return absl::InvalidArgumentError("--gpus is missing: how many GPUs there are");
  }
  scenario.input_tokens = options.input_tokens;
  scenario.output_tokens = options.output_tokens;
  scenario.batch = options.batch;
  const auto target = planner::ParseTarget(options.target);
  if (!target.ok()) return target.status();
  scenario.target = *target;
  if (options.ideal) {
    scenario.device = planner::Ideal(scenario.device);
    scenario.network = planner::Ideal(scenario.network);
    scenario.assumptions = planner::IdealAssumptions();
  }
  if (options.overlap && !options.ideal) {
    scenario.assumptions.overlap = planner::Overlap::kHalfBatches;
  }
  scenario.assumptions.router_max_over_mean = options.router_max_over_mean;
  status = CheckScenario(scenario);
  if (!status.ok()) return status;
  return scenario;
}

void PrintJson(const nlohmann::json& json) { std::printf("%s\n", json.dump(2).c_str()); }

absl::Status RunFounding(const PlanOptions& options, const Scenario& scenario) {
  const auto libraries = planner::BuiltInLibraries();
  if (!libraries.ok()) return libraries.status();
  const auto report = planner::EvaluateFounding(scenario, *libraries);
  if (!report.ok()) return report.status();
  if (options.output == "json") {
    PrintJson(FoundingToJson(scenario, *report));
  } else {
    std::printf("%s", FormatFounding(scenario, *report).c_str());
  }
  return absl::OkStatus();
}

absl::Status RunCompare(const PlanOptions& options, const Scenario& scenario,
                        const std::vector<Layout>& layouts) {
  const auto comparison = planner::Compare(scenario, layouts);
  if (!comparison.ok()) return comparison.status();
  if (!options.plot.empty()) {
    std::ofstream file(options.plot, std::ios::binary);
    file << FormatPlot(scenario, *comparison);
    file.close();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", options.plot));
  }
  if (options.output == "json") {
    PrintJson(ComparisonToJson(scenario, *comparison, options.price));
  } else {
    std::printf("%s", FormatComparison(scenario, *comparison, {.price = options.price}).c_str());
  }
  return absl::OkStatus();
}

absl::Status RunSearch(const PlanOptions& options, const Scenario& scenario,
                       const std::vector<Layout>& layouts) {
  const auto result =
      layouts.empty() ? planner::Search(scenario) : planner::Rank(scenario, layouts);
  if (!result.ok()) return result.status();
  if (options.output == "json") {
    PrintJson(SearchToJson(scenario, *result, options.price));
  } else if (options.output == "yaml") {
    const auto best = BestExpressible(*result);
    if (!best.ok()) return best.status();
    std::printf("%s", FormatManifest(scenario, *best, *result).c_str());
  } else {
    std::printf("%s", FormatSearch(scenario, *result,
                                   {.num_layouts = static_cast<size_t>(options.num_layouts),
                                    .price = options.price})
                          .c_str());
  }
  if (result->ranked.empty()) {
    return absl::FailedPreconditionError("no layout can work; the reasons are above");
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const PlanOptions& options) {
  if (options.founding && (!options.compare.empty() || !options.layouts.empty())) {
    return absl::InvalidArgumentError(
        "--founding has layouts of its own: leave --compare and "
        "--layout out");
  }
  if (!options.compare.empty() && !options.layouts.empty()) {
    return absl::InvalidArgumentError(
        "--layout and --compare do not go together: name all layouts "
        "after --compare");
  }
  if (options.compare.size() == 1) {
    return absl::InvalidArgumentError("--compare needs two layouts or more");
  }
  if (!options.plot.empty() && options.compare.empty()) {
    return absl::InvalidArgumentError("--plot needs --compare");
  }
  if (options.output == "yaml" && (options.founding || !options.compare.empty())) {
    return absl::InvalidArgumentError(
        "-o yaml prints one MoEDeployment: leave --compare and --founding out");
  }
  if (options.founding && (options.batch.has_value() || options.price.has_value())) {
    return absl::InvalidArgumentError(
        "--founding has a batch of its own and no price: leave "
        "--batch and --price out");
  }
  return absl::OkStatus();
}

}  // namespace

CLI::App* AddPlan(CLI::App* app, PlanOptions* options) {
  CLI::App* plan = app->add_subcommand(
      "plan", "Predict which layout serves a model best, and what it will reach");
  plan->footer(
      "Layouts are written EP64_TP1_PP1_DP1 (expert, tensor, pipeline, data parallelism), DP64 "
      "for\n"
      "64 whole models; +A8 8 attention ranks, +replicated attention on every rank, +slots,\n"
      "+all-to-all, +gather, +gather-scatter, +reduce how rows move, +C2 copies, +S1 spares.\n"
      "\n"
      "moe plan --model olmoe-1b-7b --gpus 64 --target 8ms\n"
      "moe plan --model olmoe-1b-7b --compare EP64_TP1_PP1_DP1 DP64 --plot plan.svg\n"
      "moe plan --founding");
  AddHardwareOptions(plan, &options->hardware);
  plan->add_option("--gpus", options->gpus, "GPUs that there are [--founding: 64]")
      ->check(CLI::Range(1, 65536));
  plan->add_option("--input-tokens", options->input_tokens, "Of a request")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  plan->add_option("--output-tokens", options->output_tokens, "Of a request")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  plan->add_option("--batch", options->batch,
                   "Sequences in flight on all GPUs [what suits the target]")
      ->check(CLI::Range(1.0, 1e9));
  plan->add_option("--target", options->target,
                   "throughput, latency, a time of a forward pass (8ms) or a rate (120000seq/s: "
                   "sequences advanced by one token per second)")
      ->capture_default_str();
  plan->add_option("--layout", options->layouts, "Look at these layouts only");
  plan->add_option("--compare", options->compare,
                   "These layouts side by side, and where one overtakes another");
  plan->add_option("--plot", options->plot, "With --compare: write an SVG to this file");
  plan->add_flag("--founding", options->founding,
                 "The targets that the project was founded on: reached, or what stands in the way");
  plan->add_flag("--overlap", options->overlap,
                 "Two half batches take turns where that is faster, so that one's exchange hides "
                 "behind the other");
  plan->add_flag("--ideal", options->ideal,
                 "An upper bound: peaks reached, no latency, no host, exchange hidden");
  plan->add_option("--router-max-over-mean", options->router_max_over_mean,
                   "Busiest expert beside the mean, as `moe experts` prints it")
      ->check(CLI::Range(1.0, 4096.0))
      ->capture_default_str();
  plan->add_option("--price", options->price, "Of one GPU for an hour: adds the cost of tokens")
      ->check(CLI::Range(0.0, 1e6));
  plan->add_option("--top", options->num_layouts, "Layouts to show")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  plan->add_flag("--sources", options->sources,
                 "Where the numbers of --gpu, --link and --library are from");
  plan->add_option("-o,--output", options->output, "table, json, or yaml (a MoEDeployment)")
      ->check(CLI::IsMember({"table", "json", "yaml"}))
      ->capture_default_str();
  return plan;
}

int RunPlan(const PlanOptions& options) {
  if (options.sources) {
    const auto sources = FormatSources(NamesOf(options.hardware));
    if (!sources.ok()) return Complain(sources.status());
    std::printf("%s", sources->c_str());
    return 0;
  }
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return Complain(status);
  const auto layouts = ParseLayouts(options.compare.empty() ? options.layouts : options.compare);
  if (!layouts.ok()) return Complain(layouts.status());
  const auto scenario = MakeScenario(options, *layouts);
  if (!scenario.ok()) return Complain(scenario.status());
  if (options.founding) {
    status = RunFounding(options, *scenario);
  } else if (!options.compare.empty()) {
    status = RunCompare(options, *scenario, *layouts);
  } else {
    status = RunSearch(options, *scenario, *layouts);
  }
  return status.ok() ? 0 : Complain(status);
}

}  // namespace moe::cli
