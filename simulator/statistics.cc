#include "simulator/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace moe::simulator {
namespace {

constexpr double kLeast = 1e-9;
const double kLogStep = std::log(1.01);

}  // namespace

Distribution Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  const auto quantile = [&](double p) {
    return values[static_cast<size_t>(std::max(1.0, std::ceil(p * count))) - 1];
  };
  return {.count = static_cast<int64_t>(values.size()),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) / count,
          .p50 = quantile(0.5),
          .p90 = quantile(0.9),
          .p99 = quantile(0.99),
          .max = values.back()};
}

void Histogram::Add(double value) {
  const auto bucket = static_cast<size_t>(std::log(std::max(value, kLeast) / kLeast) / kLogStep);
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  ++counts_[bucket];
  ++count_;
  sum_ += value;
  max_ = std::max(max_, value);
}

Distribution Histogram::Summarize() const {
  if (count_ == 0) return {};
  const auto quantile = [this](double p) {
    const double place = std::max(1.0, std::ceil(p * static_cast<double>(count_)));
    double seen = 0;
    for (size_t bucket = 0; bucket < counts_.size(); ++bucket) {
      seen += static_cast<double>(counts_[bucket]);
      if (seen < place) continue;
      const double middle = kLeast * std::exp((static_cast<double>(bucket) + 0.5) * kLogStep);
      return std::min(middle, max_);
    }
    return max_;
  };
  return {.count = count_,
          .mean = sum_ / static_cast<double>(count_),
          .p50 = quantile(0.5),
          .p90 = quantile(0.9),
          .p99 = quantile(0.99),
          .max = max_};
}

}  // namespace moe::simulator
