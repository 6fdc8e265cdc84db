#include "cli/plan/report.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/plan/text_table.h"
#include "planner/feasibility.h"

namespace moe::cli {
namespace {

using planner::Prediction;
using planner::Scenario;
using planner::WithThousands;

std::string Milliseconds(double seconds) {
  return seconds == 0 ? "" : absl::StrFormat("%.2f", seconds * 1e3);
}
std::string Gigabytes(double bytes) { return absl::StrFormat("%.1f", bytes / 1e9); }
std::string Percent(double share) { return absl::StrFormat("%.0f%%", share * 100); }

std::vector<Prediction> First(const std::vector<Prediction>& ranked, size_t count) {
  return {ranked.begin(), ranked.begin() + std::min(count, ranked.size())};
}

std::string FormatRates(const Scenario& scenario, const std::vector<Prediction>& predictions,
                        const ReportOptions& options) {
  TextTable table({"#", "<layout", "GPUs", "batch", "ms", "seq/s", "requests/s", "out tok/s",
                   "first tok ms", "busy", "traffic", options.price.has_value() ? "$/M tok" : "",
                   "<limited by", "<not built"});
  for (size_t i = 0; i < predictions.size(); ++i) {
    const Prediction& p = predictions[i];
    table.AddRow({absl::StrCat(i + 1), LayoutName(p.layout),
                  WithThousands(static_cast<double>(p.layout.num_gpus())),
                  WithThousands(p.total_sequences()), Milliseconds(p.forward.total_seconds()),
                  WithThousands(p.sequences_per_second), Figure(p.completed_per_second),
                  WithThousands(p.output_tokens_per_second), Milliseconds(p.first_token_seconds),
                  Percent(p.utilization), absl::StrFormat("%.2f", p.forward.traffic_max_over_mean),
                  options.price.has_value()
                      ? absl::StrFormat("%.3f", CostPerMillionTokens(scenario, p, *options.price))
                      : "",
                  absl::StrCat(DescribeLimit(p.forward.main_limit()),
                               p.meets_target ? "" : " (misses the target)"),
                  WhatIsNotBuilt(p.layout)});
  }
  return table.Format();
}

std::string FormatTimes(const std::vector<Prediction>& predictions) {
  TextTable table({"#", "attention", "KV", "router", "dense", "experts", "head", "dispatch",
                   "combine", "tensor", "pipeline", "host", "hidden", "sum"});
  for (size_t i = 0; i < predictions.size(); ++i) {
    const planner::ForwardTime& f = predictions[i].forward;
    table.AddRow({absl::StrCat(i + 1), Milliseconds(f.attention_seconds),
                  Milliseconds(f.kv_seconds), Milliseconds(f.router_seconds),
                  Milliseconds(f.dense_seconds), Milliseconds(f.expert_seconds),
                  Milliseconds(f.head_seconds), Milliseconds(f.dispatch_seconds),
                  Milliseconds(f.combine_seconds), Milliseconds(f.tensor_seconds),
                  Milliseconds(f.pipeline_seconds), Milliseconds(f.host_seconds),
                  f.hidden_seconds > 0 ? "-" + Milliseconds(f.hidden_seconds) : "",
                  Milliseconds(f.total_seconds())});
  }
  return table.Format();
}

std::string FormatMemory(const Scenario& scenario, const std::vector<Prediction>& predictions) {
  TextTable table({"#", "attention", "vocabulary", "dense", "experts", "KV", "buffers", "reserve",
                   "sum", "of GPU", "unique", "unique weights", "experts each"});
  for (size_t i = 0; i < predictions.size(); ++i) {
    const Prediction& p = predictions[i];
    const planner::MemoryUse& m = p.memory;
    const double instances = static_cast<double>(scenario.model.num_experts) * p.layout.copies /
                             p.layout.expert * scenario.model.num_moe_layers() / p.layout.pipeline;
    table.AddRow({absl::StrCat(i + 1), Gigabytes(m.attention_bytes), Gigabytes(m.vocabulary_bytes),
                  Gigabytes(m.dense_bytes), Gigabytes(m.expert_bytes), Gigabytes(m.kv_bytes),
                  Gigabytes(m.buffer_bytes), Gigabytes(m.reserved_bytes),
                  Gigabytes(m.total_bytes()),
                  Percent(m.total_bytes() / scenario.device.memory_bytes),
                  Percent(p.memory_efficiency.unique_share),
                  Percent(p.memory_efficiency.unique_weight_share), WithThousands(instances)});
  }
  return table.Format();
}

// Whether experts spread over GPUs or whole models serve better, among what the search found.
std::string FormatReplicasVerdict(const planner::SearchResult& result) {
  const auto find = [&result](auto matches) {
    return std::find_if(result.ranked.begin(), result.ranked.end(), matches);
  };
  const auto replicas = find([](const Prediction& p) {
    return p.layout.expert * p.layout.tensor * p.layout.pipeline == 1;
  });
  const auto spread = find([](const Prediction& p) { return p.layout.expert > 1; });
  if (replicas == result.ranked.end() && spread != result.ranked.end()) {
    return "Plain replicas cannot work: the model does not fit one GPU.\n";
  }
  if (spread == result.ranked.end() || replicas == result.ranked.end()) return "";
  const bool replicas_win = replicas < spread;
  const Prediction& winner = replicas_win ? *replicas : *spread;
  const Prediction& other = replicas_win ? *spread : *replicas;
  return absl::StrFormat(
      "%s: %s completes %s requests/s with passes of %s ms, %s %s requests/s with %s ms.\n",
      replicas_win ? "Plain replicas serve this target better than expert parallelism"
                   : "Expert parallelism serves this target better than plain replicas",
      LayoutName(winner.layout), Figure(winner.completed_per_second),
      Milliseconds(winner.forward.total_seconds()), LayoutName(other.layout),
      Figure(other.completed_per_second), Milliseconds(other.forward.total_seconds()));
}

std::string AxisValue(planner::Axis axis, double value) {
  switch (axis) {
    case planner::Axis::kBatch:
      return absl::StrCat(WithThousands(value), " sequences");
    case planner::Axis::kContext:
      return absl::StrCat(WithThousands(value), " tokens");
    case planner::Axis::kLinkSpeed:
      return absl::StrFormat("%.1f Gb/s", value * 8 / 1e9);
  }
  return "";
}

std::string AxisQuestion(planner::Axis axis, double batch) {
  switch (axis) {
    case planner::Axis::kBatch:
      return "sequences in flight on all GPUs";
    case planner::Axis::kContext:
      return absl::StrFormat("tokens of a sequence, with %s sequences in flight",
                             WithThousands(batch));
    case planner::Axis::kLinkSpeed:
      return absl::StrFormat("speed of each GPU's network link, with %s sequences in flight",
                             WithThousands(batch));
  }
  return "";
}

}  // namespace

std::string Figure(double number) {
  if (number >= 100) return WithThousands(number);
  return absl::StrFormat("%.3g", number);
}

std::string FormatHardware(const Scenario& scenario) {
  const planner::ModelShape& m = scenario.model;
  std::string text = absl::StrFormat(
      "model   %s: %.2f B parameters (%.2f B active for a token), %.1f GB; %d layers, %d experts, "
      "top-%d; %s bytes of KV cache for a token\n",
      m.name, static_cast<double>(m.total_params()) / 1e9,
      static_cast<double>(m.active_params()) / 1e9, m.total_bytes() / 1e9, m.num_layers,
      m.num_experts, m.top_k, WithThousands(m.kv_bytes_per_token()));
  if (scenario.device.shared_cores.has_value()) {
    absl::StrAppendFormat(&text, "machine %s: %s ranks share the cores of one, rows moved by %s\n",
                          scenario.device.title, WithThousands(scenario.num_gpus),
                          scenario.network.library.title);
    return text;
  }
  absl::StrAppendFormat(
      &text,
      "GPUs    %s x %s, %d in each node, a network link of %.4g Gb/s each%s, rows moved by %s\n",
      WithThousands(scenario.num_gpus), scenario.device.title, scenario.network.gpus_per_node,
      scenario.network.link_bytes_per_second * 8 / 1e9,
      scenario.network.link_name.empty() ? "" : absl::StrCat(" (", scenario.network.link_name, ")"),
      scenario.network.library.title);
  return text;
}

std::string FormatScenario(const Scenario& scenario) {
  std::string text = FormatHardware(scenario);
  absl::StrAppendFormat(
      &text, "load    %s input and %s output tokens%s\n", WithThousands(scenario.input_tokens),
      WithThousands(scenario.output_tokens),
      scenario.batch.has_value()
          ? absl::StrCat(", ", WithThousands(*scenario.batch), " sequences in flight on all GPUs")
          : "");
  return text;
}

namespace {

// What was measured on the machine, by `moe calibrate`.
std::string FormatCalibration(const Scenario& scenario) {
  const planner::Device& d = scenario.device;
  const planner::ExchangeLibrary& l = scenario.network.library;
  std::string text = absl::StrFormat(
      "Predicted from what was measured on %s (moe plan --sources says when and how):\n"
      "- %.1f GB/s of weights, %.1f GFLOP/s, %.0f%% of the shorter of the two hidden;\n"
      "- %.0f us of host time for a step and %.1f us for a layer;\n",
      d.title, d.bandwidth() / 1e9, d.flops(2) / 1e9, d.read_overlap * 100,
      d.host->step_seconds * 1e6, d.host->layer_seconds * 1e6);
  absl::StrAppendFormat(&text, "- an exchange of %.1f us, and %.2f us for each message;\n",
                        l.node_dispatch_latency_seconds * 1e6, l.node_message_seconds * 1e6);
  return text;
}

// What stands in data files and what is assumed.
std::string FormatUncalibrated(const Scenario& scenario) {
  const planner::Assumptions& a = scenario.assumptions;
  std::string text = absl::StrFormat(
      "Predicted, not measured: nothing here is calibrated on hardware yet. It rests on\n"
      "- %.0f%% of the GPU's memory bandwidth and %.0f%% of its peak operations (moe plan "
      "--sources "
      "says whose figures);\n",
      scenario.device.memory_efficiency * 100, scenario.device.compute_efficiency * 100);
  const planner::ExchangeLibrary& l = scenario.network.library;
  absl::StrAppendFormat(&text,
                        "- exchange phases of %.0f and %.0f us latency over the network, %.0f and "
                        "%.0f us in a node, at "
                        "%.0f%% and %.0f%% of the links' bytes per second;\n",
                        l.dispatch_latency_seconds * 1e6, l.combine_latency_seconds * 1e6,
                        l.node_dispatch_latency_seconds * 1e6, l.node_combine_latency_seconds * 1e6,
                        l.link_efficiency * 100, l.node_link_efficiency * 100);
  absl::StrAppendFormat(
      &text,
      "- assumed, without a source: %.0f us of host time for a step, %.0f us for a captured layer, "
      "%.0f us for one that the host starts, %.1f GB reserved on each GPU, chunks of %s prompt "
      "rows "
      "for each attention rank;\n",
      a.step_host_seconds * 1e6, a.captured_layer_seconds * 1e6, a.eager_layer_seconds * 1e6,
      a.reserved_bytes / 1e9, WithThousands(a.prefill_rows));
  return text;
}

}  // namespace

std::string FormatAssumptions(const Scenario& scenario) {
  const planner::Assumptions& a = scenario.assumptions;
  std::string text =
      scenario.device.calibrated() ? FormatCalibration(scenario) : FormatUncalibrated(scenario);
  if (a.router_max_over_mean > 1) {
    absl::StrAppendFormat(&text, "- a router whose busiest expert gets %.2f times the mean;\n",
                          a.router_max_over_mean);
  } else {
    absl::StrAppend(&text, "- a router without favourites: traffic differs by chance alone;\n");
  }
  const char* overlap = "- an exchange that nothing hides;\n";
  if (a.overlap == planner::Overlap::kHalfBatches) {
    overlap = "- two half batches that take turns where that is faster;\n";
  } else if (a.overlap == planner::Overlap::kFree) {
    overlap = "- an exchange that hides behind computation at no cost: a bound;\n";
  }
  absl::StrAppend(&text, overlap,
                  "- the context half through an answer; every sequence's memory at its full "
                  "length.\n");
  return text;
}

std::string FormatSearch(const Scenario& scenario, const planner::SearchResult& result,
                         const ReportOptions& options) {
  std::string text =
      absl::StrCat(FormatScenario(scenario), "target  ", DescribeTarget(scenario.target), "\n");
  const std::vector<Prediction> shown = First(result.ranked, options.num_layouts);
  absl::StrAppendFormat(&text, "\n%s %s looked at, %s can work\n",
                        WithThousands(result.num_layouts),
                        result.num_layouts == 1 ? "layout" : "layouts",
                        WithThousands(static_cast<double>(result.ranked.size())));
  if (!shown.empty()) {
    absl::StrAppend(
        &text, "\n", FormatRates(scenario, shown, options),
        "\nseq/s: sequences advanced by one token per second; requests/s: completed, their prompts "
        "included.\nbusy: share of the pass in which an average GPU computes or reads memory. "
        "traffic: rows of the\nbusiest rank beside the mean; every rank holds as many experts as "
        "any other (placement variance 0%).\n"
        "\nMilliseconds of a forward pass\n",
        FormatTimes(shown),
        "\nGB of an attention rank's GPU; unique: share of the group's bytes in "
        "use that nothing else of it holds\n",
        FormatMemory(scenario, shown), "\n", FormatReplicasVerdict(result));
  }
  if (!result.refused.empty()) {
    absl::StrAppend(&text, "\nCannot work\n");
    for (size_t i = 0; i < std::min(options.num_refused, result.refused.size()); ++i) {
      absl::StrAppend(&text, "- ", result.refused[i].reason, "\n");
    }
    if (result.refused.size() > options.num_refused) {
      absl::StrAppendFormat(&text, "- and %d more strategies (-o json has all)\n",
                            result.refused.size() - options.num_refused);
    }
  }
  absl::StrAppend(&text, "\nNo worker has run on a GPU yet: every figure here is a prediction.\n",
                  FormatAssumptions(scenario));
  return text;
}

std::string FormatComparison(const Scenario& scenario, const planner::Comparison& comparison,
                             const ReportOptions& options) {
  std::string text = FormatScenario(scenario);
  absl::StrAppendFormat(&text, "\nAll with %s sequences in flight\n\n",
                        WithThousands(comparison.batch));
  absl::StrAppend(&text, FormatRates(scenario, comparison.predictions, options),
                  "\nMilliseconds of a forward pass\n", FormatTimes(comparison.predictions),
                  "\nGB of an attention rank's GPU\n",
                  FormatMemory(scenario, comparison.predictions));
  const auto name = [&comparison](size_t index) {
    return LayoutName(comparison.predictions[index].layout);
  };
  for (const planner::Sweep& sweep : comparison.sweeps) {
    absl::StrAppendFormat(&text, "\nBy %s\n- from %s: %s\n",
                          AxisQuestion(sweep.axis, comparison.batch),
                          AxisValue(sweep.axis, sweep.min),
                          sweep.sequences_per_second[sweep.best_at_min].front() > 0
                              ? name(sweep.best_at_min) + " is the fastest"
                              : "none fits the memory");
    for (const planner::Crossover& crossover : sweep.crossovers) {
      absl::StrAppendFormat(&text, "- from %s: %s, %s %s\n", AxisValue(sweep.axis, crossover.value),
                            name(crossover.to),
                            crossover.out_of_memory ? "past the memory of" : "overtaking",
                            name(crossover.from));
    }
    absl::StrAppendFormat(&text, "- to %s%s\n", AxisValue(sweep.axis, sweep.max),
                          sweep.crossovers.empty() ? ": no crossover" : "");
  }
  absl::StrAppend(&text, "\n", FormatAssumptions(scenario));
  return text;
}

}  // namespace moe::cli
