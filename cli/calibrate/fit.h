// From measured times to the few numbers of the planner's cost model. Pure.
//
// Tested by tests/cli/calibrate/fit_test.cc.
#ifndef MOE_CLI_CALIBRATE_FIT_H_
#define MOE_CLI_CALIBRATE_FIT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace moe::cli {

// REQUIRES: values is not empty.
double Median(std::vector<double> values);

// A matrix product: what it reads and computes, and what it took.
struct ProductSample {
  double bytes = 0;
  double flops = 0;
  double seconds = 0;
};

// seconds = max(bytes / bytes_per_second, flops / flops_per_second) + (1 - overlap) * the smaller.
struct ProductRates {
  double bytes_per_second = 0;
  double flops_per_second = 0;
  double overlap = 1;
  double worst_error = 0;  // of a sample's time, relative: how well this describes the kernels
};

double SecondsOf(const ProductRates& rates, const ProductSample& sample);

// The rates with the least sum of squared logarithms of predicted over measured time. Products of
// few rows decide the bandwidth, of many rows the operations, and those between the overlap, so
// there have to be some of each. InvalidArgument: fewer than three samples, or a number that is not
// above zero.
absl::StatusOr<ProductRates> FitProducts(absl::Span<const ProductSample> samples);

// Something that happened counts[i] times of each kind i, and what it took together.
struct SumSample {
  std::vector<double> counts;
  double seconds = 0;
};

// Seconds of each kind, none below zero, with the least sum of squared relative errors.
// InvalidArgument: no samples, samples of different kinds or more than 8 kinds, or counts that
// cannot tell the kinds apart.
absl::StatusOr<std::vector<double>> FitSum(absl::Span<const SumSample> samples);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_FIT_H_
