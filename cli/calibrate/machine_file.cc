#include "cli/calibrate/machine_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace moe::cli {
namespace {

using Json = nlohmann::ordered_json;

// Operations per second of something that reads at the rates' bandwidth; 0 if its reads explain all
// of its time.
double FlopsPerSecond(const ProductRates& rates, const ProductSample& sample) {
  const double reading = sample.bytes / rates.bytes_per_second;
  double computing = sample.seconds - (1 - rates.overlap) * reading;  // if it takes longer
  if (computing < reading) {
    computing = rates.overlap < 1 ? (sample.seconds - reading) / (1 - rates.overlap) : 0;
  }
  return computing > 0 ? sample.flops / computing : 0;
}

// By prompts, whose time is nearly all computation, and by decoding as far as it tells.
double AttentionFlops(const ProductRates& rates, const std::vector<ProductSample>& samples) {
  double logs = 0;
  int count = 0;
  for (const ProductSample& sample : samples) {
    const double flops = FlopsPerSecond(rates, sample);
    if (flops <= 0) continue;
    logs += std::log(flops);
    ++count;
  }
  return count > 0 ? std::exp(logs / count) : rates.flops_per_second;
}

// What one core reads when it reads alone: between its part of what all reach, and all of it.
double CoreBandwidth(const ProductRates& rates, const ProductSample& sample, int num_cores) {
  const double computing = sample.flops * num_cores / rates.flops_per_second;
  const double reading = sample.seconds - (1 - rates.overlap) * computing;
  const double reached = reading > 0 ? sample.bytes / reading : rates.bytes_per_second;
  return std::clamp(reached, rates.bytes_per_second / num_cores, rates.bytes_per_second);
}

Json Number(double value, const std::string& source) {
  // More digits than are known.
  double rounded = value;
  if (!absl::SimpleAtod(absl::StrFormat("%.6g", value), &rounded)) rounded = value;
  return {{"value", rounded}, {"source", source}};
}

}  // namespace

absl::StatusOr<Machine> DescribeMachine(const Measurements& measured) {
  const auto rates = FitProducts(measured.kernels.products);
  if (!rates.ok()) return rates.status();
  std::vector<SumSample> exchanges;
  exchanges.reserve(measured.exchange.size());
  for (const ExchangeSample& sample : measured.exchange) {
    exchanges.push_back({{1, sample.messages, sample.bytes}, sample.seconds});
  }
  const auto exchange = FitSum(exchanges);
  if (!exchange.ok()) return exchange.status();

  Machine machine;
  machine.worst_product_error = rates->worst_error;
  for (const SumSample& sample : exchanges) {
    const double predicted =
        (*exchange)[0] + sample.counts[1] * (*exchange)[1] + sample.counts[2] * (*exchange)[2];
    machine.worst_exchange_error =
        std::max(machine.worst_exchange_error, std::abs(predicted / sample.seconds - 1));
  }
  planner::Device& device = machine.device;
  device.name = "machine";
  device.title =
      absl::StrFormat("%s, %d cores, %s", measured.cpu, measured.num_cores, measured.level);
  device.memory_bytes = measured.memory_bytes;
  device.memory_bytes_per_second = rates->bytes_per_second;
  device.bf16_flops = rates->flops_per_second;
  device.read_overlap = rates->overlap;
  device.attention_flops = AttentionFlops(*rates, measured.kernels.attention);
  device.shared_cores = {.num_cores = measured.num_cores,
                         .core_bytes_per_second =
                             CoreBandwidth(*rates, measured.kernels.one_core, measured.num_cores)};
  device.host = measured.host;
  // Where no time is left for bytes, they move as fast as memory.
  device.node_link_bytes_per_second =
      (*exchange)[2] > 0 ? 1 / (*exchange)[2] : rates->bytes_per_second;

  planner::ExchangeLibrary& library = machine.library;
  library.name = "machine";
  library.title = "shared memory between processes of one machine";
  library.started_by_device = true;
  library.node_dispatch_latency_seconds = (*exchange)[0];
  library.node_message_seconds = (*exchange)[1];
  library.owners_apart = true;
  library.within_node_only = true;
  return machine;
}

std::string MachineFileText(const Measurements& measured, const Machine& machine) {
  const std::string measured_by = absl::StrFormat(
      "measured by moe calibrate, %s, %s, %d threads, %s, shapes of %s", measured.date,
      measured.cpu, measured.num_cores, measured.level, measured.model);
  const auto source = [&](const std::string& what) {
    return absl::StrFormat("%s: %s, medians of %d rounds", measured_by, what, measured.num_rounds);
  };
  const planner::Device& device = machine.device;
  const planner::ExchangeLibrary& library = machine.library;
  const std::string fit =
      absl::StrFormat("fitted to experts and projections of 1 to 256 rows, each within %.0f%%",
                      std::ceil(machine.worst_product_error * 100));
  const std::string exchange_fit = absl::StrFormat(
      "fitted to exchanges of 1 to 256 rows between up to %d processes, each within %.0f%%",
      measured.exchange.empty() ? 0 : measured.exchange.back().num_ranks,
      std::ceil(machine.worst_exchange_error * 100));
  const std::string whole = "the rate itself was measured, not a peak";
  Json json;
  json["title"] = device.title;
  json["device"] = {
      {"title", device.title},
      {"memory_bytes",
       Json{{"value", device.memory_bytes}, {"source", "of the system, at the time"}}},
      {"memory_bytes_per_second", Number(device.memory_bytes_per_second, source(fit))},
      {"bf16_flops", Number(device.bf16_flops, source(fit))},
      {"read_overlap", Number(device.read_overlap, source(fit))},
      {"attention_flops",
       Number(device.attention_flops, source("scores and values of decoding and of a prompt"))},
      {"node_link_bytes_per_second",
       Number(device.node_link_bytes_per_second, source(exchange_fit))},
      {"memory_efficiency", Number(1, whole)},
      {"compute_efficiency", Number(1, whole)},
      {"num_cores", Number(measured.num_cores, "cores that moe calibrate may run on")},
      {"core_bytes_per_second", Number(device.shared_cores->core_bytes_per_second,
                                       source("experts of one row on one core"))},
      {"step_host_seconds",
       Number(device.host->step_seconds, source("steps of a model of 1 and of 17 tiny layers"))},
      {"layer_host_seconds",
       Number(device.host->layer_seconds, source("steps of a model of 1 and of 17 tiny layers"))}};
  json["exchange"] = {
      {"title", library.title},
      {"started_by_device", library.started_by_device},
      {"owners_apart", library.owners_apart},
      {"node_dispatch_latency_seconds",
       Number(library.node_dispatch_latency_seconds, source(exchange_fit))},
      {"node_combine_latency_seconds", Number(0,
                                              "part of the dispatch's: both ways were measured "
                                              "together")},
      {"node_message_seconds", Number(library.node_message_seconds, source(exchange_fit))},
      {"node_link_efficiency", Number(1, whole)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace moe::cli
