#include "cli/calibrate/fit.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

namespace moe::cli {
namespace {

constexpr size_t kMaxKinds = 8;

// Solves a x = b by elimination with pivots; false if `a` is singular.
bool Solve(std::vector<std::vector<double>> a, std::vector<double> b, std::vector<double>* x) {
  const size_t size = b.size();
  for (size_t column = 0; column < size; ++column) {
    size_t pivot = column;
    for (size_t row = column + 1; row < size; ++row) {
      if (std::abs(a[row][column]) > std::abs(a[pivot][column])) pivot = row;
    }
    if (std::abs(a[pivot][column]) < 1e-12) return false;
    std::swap(a[pivot], a[column]);
    std::swap(b[pivot], b[column]);
    for (size_t row = column + 1; row < size; ++row) {
      const double factor = a[row][column] / a[column][column];
      for (size_t k = column; k < size; ++k) a[row][k] -= factor * a[column][k];
      b[row] -= factor * b[column];
    }
  }
  x->assign(size, 0);
  for (size_t row = size; row-- > 0;) {
    double sum = b[row];
    for (size_t k = row + 1; k < size; ++k) sum -= a[row][k] * (*x)[k];
    (*x)[row] = sum / a[row][row];
  }
  return true;
}

// Least squares of relative errors with the kinds in `used` alone; the others are zero. Counts are
// scaled to at most 1, so that what is singular can be told.
bool FitKinds(absl::Span<const SumSample> samples, const std::vector<double>& scales,
              const std::vector<size_t>& used, std::vector<double>* seconds) {
  const size_t size = used.size();
  std::vector<std::vector<double>> a(size, std::vector<double>(size, 0));
  std::vector<double> b(size, 0);
  double shortest = std::numeric_limits<double>::max();
  for (const SumSample& sample : samples) shortest = std::min(shortest, sample.seconds);
  for (const SumSample& sample : samples) {
    const double weight = shortest / sample.seconds;
    for (size_t i = 0; i < size; ++i) {
      const double x = sample.counts[used[i]] / scales[used[i]] * weight;
      b[i] += x * shortest;
      for (size_t j = 0; j < size; ++j) {
        a[i][j] += x * sample.counts[used[j]] / scales[used[j]] * weight;
      }
    }
  }
  std::vector<double> solved;
  if (!Solve(std::move(a), std::move(b), &solved)) return false;
  seconds->assign(scales.size(), 0);
  for (size_t i = 0; i < size; ++i) (*seconds)[used[i]] = solved[i] / scales[used[i]];
  return true;
}

double RelativeError(absl::Span<const SumSample> samples, const std::vector<double>& seconds) {
  double error = 0;
  for (const SumSample& sample : samples) {
    double predicted = 0;
    for (size_t i = 0; i < seconds.size(); ++i) predicted += sample.counts[i] * seconds[i];
    const double relative = predicted / sample.seconds - 1;
    error += relative * relative;
  }
  return error;
}

}  // namespace

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double SecondsOf(const ProductRates& rates, const ProductSample& sample) {
  const double reading = sample.bytes / rates.bytes_per_second;
  const double computing = sample.flops / rates.flops_per_second;
  return std::max(reading, computing) + (1 - rates.overlap) * std::min(reading, computing);
}

absl::StatusOr<ProductRates> FitProducts(absl::Span<const ProductSample> samples) {
  if (samples.size() < 3) {
    return absl::InvalidArgumentError("three rates cannot be told from fewer than three products");
  }
  double low = std::numeric_limits<double>::max();
  double high = 0;
  for (const ProductSample& sample : samples) {
    if (!(sample.bytes > 0 && sample.flops > 0 && sample.seconds > 0)) {
      return absl::InvalidArgumentError("a product that read or computed nothing, or took no time");
    }
    low = std::min(low, sample.flops / sample.bytes);
    high = std::max(high, sample.flops / sample.bytes);
  }
  // With flops_per_second = ridge * bytes_per_second all times are as 1 / bytes_per_second, of
  // which the best is the geometric mean. The other two are tried in small steps.
  constexpr int kRidges = 300;
  constexpr int kOverlaps = 100;
  double least = std::numeric_limits<double>::max();
  ProductRates best;
  for (int i = 0; i <= kRidges; ++i) {
    const double ridge = low * std::pow(high / low, static_cast<double>(i) / kRidges);
    for (int j = 0; j <= kOverlaps; ++j) {
      ProductRates rates = {.bytes_per_second = 1,
                            .flops_per_second = ridge,
                            .overlap = static_cast<double>(j) / kOverlaps};
      double sum = 0;
      double squares = 0;
      for (const ProductSample& sample : samples) {
        const double log = std::log(SecondsOf(rates, sample) / sample.seconds);
        sum += log;
        squares += log * log;
      }
      const double mean = sum / static_cast<double>(samples.size());
      const double error = squares - sum * mean;
      if (error >= least) continue;
      least = error;
      best = rates;
      best.bytes_per_second = std::exp(mean);
      best.flops_per_second = ridge * best.bytes_per_second;
    }
  }
  for (const ProductSample& sample : samples) {
    best.worst_error =
        std::max(best.worst_error, std::abs(SecondsOf(best, sample) / sample.seconds - 1));
  }
  return best;
}

absl::StatusOr<std::vector<double>> FitSum(absl::Span<const SumSample> samples) {
  const size_t kinds = samples.empty() ? 0 : samples[0].counts.size();
  std::vector<double> scales(kinds, 0);
  for (const SumSample& sample : samples) {
    if (sample.counts.size() != kinds || !(sample.seconds > 0)) {
      return absl::InvalidArgumentError("samples of different kinds, or that took no time");
    }
    for (size_t i = 0; i < kinds; ++i) scales[i] = std::max(scales[i], sample.counts[i]);
  }
  if (kinds == 0 || kinds > kMaxKinds ||
      std::any_of(scales.begin(), scales.end(), [](double scale) { return scale <= 0; })) {
    return absl::InvalidArgumentError("a sum needs one to eight kinds, each of which happened");
  }
  double least = std::numeric_limits<double>::max();
  std::vector<double> best;
  for (size_t subset = 1; subset < (size_t{1} << kinds); ++subset) {
    std::vector<size_t> used;
    for (size_t i = 0; i < kinds; ++i) {
      if ((subset >> i & 1) != 0) used.push_back(i);
    }
    std::vector<double> seconds;
    if (!FitKinds(samples, scales, used, &seconds)) {
      if (used.size() < kinds) continue;
      return absl::InvalidArgumentError("the samples cannot tell the kinds apart");
    }
    if (std::any_of(seconds.begin(), seconds.end(), [](double s) { return s < 0; })) continue;
    const double error = RelativeError(samples, seconds);
    if (error >= least) continue;
    least = error;
    best = seconds;
  }
  return best;
}

}  // namespace moe::cli
