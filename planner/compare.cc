#include "planner/compare.h"

#include <algorithm>
#include <cmath>

#include "planner/feasibility.h"

namespace moe::planner {
namespace {

constexpr int kNumValues = 97;       // of a sweep
constexpr double kMinLink = 1.25e9;  // 10 Gb/s
constexpr double kMaxLink = 200e9;   // 1,600 Gb/s

// The index of the fastest; ties go to the first.
size_t Best(const std::vector<double>& rates) {
  return std::max_element(rates.begin(), rates.end()) - rates.begin();
}

double LogBetween(double min, double max, double share) { return min * std::pow(max / min, share); }

Scenario At(const Scenario& scenario, Axis axis, double value) {
  Scenario moved = scenario;
  switch (axis) {
    case Axis::kBatch:
      break;
    case Axis::kContext: {
      const double scale = value / scenario.full_context();
      moved.input_tokens = std::max(1, static_cast<int>(scenario.input_tokens * scale));
      moved.output_tokens = std::max(1, static_cast<int>(value) - moved.input_tokens);
      break;
    }
    case Axis::kLinkSpeed:
      moved.network.link_bytes_per_second = value;
      break;
  }
  return moved;
}

}  // namespace

std::string AxisName(Axis axis) {
  switch (axis) {
    case Axis::kBatch:
      return "batch";
    case Axis::kContext:
      return "context";
    case Axis::kLinkSpeed:
      return "link";
  }
  return "";
}

double RateAt(const Scenario& scenario, const Layout& layout, Axis axis, double value,
              double batch) {
  const Scenario moved = At(scenario, axis, value);
  const double all = axis == Axis::kBatch ? value : batch;
  const double sequences = std::ceil(all / layout.data);
  if (sequences > static_cast<double>(SequencesThatFit(moved, layout))) return 0;
  // The groups' shares are rounded up, the rate is of the sequences that there are.
  return all / ForwardSecondsAt(moved, layout, sequences);
}

Sweep SweepAxis(const Scenario& scenario, const std::vector<Layout>& layouts, Axis axis, double min,
                double max, int num_values, double batch) {
  // Sequences and tokens are whole.
  const bool whole = axis != Axis::kLinkSpeed;
  const auto rates_at = [&](double value) {
    std::vector<double> rates;
    rates.reserve(layouts.size());
    for (const Layout& layout : layouts) {
      rates.push_back(RateAt(scenario, layout, axis, value, batch));
    }
    return rates;
  };
  Sweep sweep{.axis = axis, .min = min, .max = max};
  sweep.sequences_per_second.resize(layouts.size());
  double previous_value = min;
  size_t previous_best = 0;
  for (int i = 0; i < num_values; ++i) {
    double value = LogBetween(min, max, static_cast<double>(i) / (num_values - 1));
    if (whole) value = std::round(value);
    if (i > 0 && value <= previous_value) continue;
    const std::vector<double> rates = rates_at(value);
    sweep.values.push_back(value);
    for (size_t l = 0; l < layouts.size(); ++l) sweep.sequences_per_second[l].push_back(rates[l]);
    const size_t best = Best(rates);
    if (i == 0) {
      sweep.best_at_min = best;
    } else if (best != previous_best) {
      double low = previous_value;
      double high = value;
      size_t to = best;
      while (high - low > (whole ? 1.0 : low * 1e-4)) {
        const double middle = whole ? std::floor((low + high) / 2) : (low + high) / 2;
        const size_t there = Best(rates_at(middle));
        if (there == previous_best) {
          low = middle;
        } else {
          high = middle;
          to = there;
        }
      }
      sweep.crossovers.push_back({.value = high,
                                  .from = previous_best,
                                  .to = to,
                                  .out_of_memory = rates_at(high)[previous_best] == 0});
    }
    previous_value = value;
    previous_best = best;
  }
  return sweep;
}

absl::StatusOr<Comparison> Compare(const Scenario& scenario, const std::vector<Layout>& layouts) {
  absl::Status status = CheckScenario(scenario);
  if (!status.ok()) return status;
  if (layouts.empty()) return absl::InvalidArgumentError("there is no layout to compare");
  Comparison comparison;
  double most = 0;
  for (const Layout& layout : layouts) {
    const absl::StatusOr<Prediction> prediction = Predict(scenario, layout);
    if (!prediction.ok()) return prediction.status();
    const double fits = static_cast<double>(prediction->max_sequences) * layout.data;
    most = std::max(most, fits);
    const double batch = scenario.batch.value_or(
        comparison.predictions.empty() ? prediction->total_sequences() : comparison.batch);
    comparison.batch = std::min(batch, fits);
    comparison.predictions.push_back(*prediction);
  }
  Scenario at_batch = scenario;
  at_batch.batch = comparison.batch;
  for (size_t i = 0; i < layouts.size(); ++i) {
    comparison.predictions[i] = PredictAt(
        at_batch, layouts[i], static_cast<int64_t>(std::ceil(comparison.batch / layouts[i].data)));
  }
  const double max_batch = std::max(2.0, std::min(most, 1048576.0));
  const double max_context =
      scenario.model.max_positions > 0 ? scenario.model.max_positions : 131072;
  comparison.sweeps = {
      SweepAxis(scenario, layouts, Axis::kBatch, 1, max_batch, kNumValues, comparison.batch),
      SweepAxis(scenario, layouts, Axis::kContext, std::min(128.0, max_context / 2), max_context,
                kNumValues, comparison.batch),
      SweepAxis(scenario, layouts, Axis::kLinkSpeed, kMinLink, kMaxLink, kNumValues,
                comparison.batch)};
  return comparison;
}

}  // namespace moe::planner
