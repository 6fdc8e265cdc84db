#include "planner/balance.h"

#include <algorithm>
#include <cmath>

namespace moe::planner {
namespace {

// Expected maximum of n independent standard normal values. Source: the quantile of 0.5264^(1/n)
// (Chen and Tyler 1999, "Accurate approximation to the extreme order statistics of Gaussian
// samples"); the quantile after Acklam's rational approximation of the upper tail.
double ExpectedNormalMaximum(double n) {
  const double p = std::pow(0.5264, 1.0 / n);
  if (p <= 0.97575) {
    const double q = p - 0.5;
    const double r = q * q;
    return (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) *
                  r +
              1.383577518672690e+02) *
                 r -
             3.066479806614716e+01) *
                r +
            2.506628277459239e+00) *
           q /
           (((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) *
                  r +
              6.680131188771972e+01) *
                 r -
             1.328068155288572e+01) *
                r +
            1.0);
  }
  const double q = std::sqrt(-2.0 * std::log(1.0 - p));
  return -(((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838e+00) *
                 q -
             2.549732539343734e+00) *
                q +
            4.374664141464968e+00) *
               q +
           2.938163982698783e+00) /
         ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996e+00) * q +
           3.754408661907416e+00) *
              q +
          1.0);
}

// Expected maximum of n independent binomial counts, less their mean.
double ExpectedBinomialExcess(double mean, double success, double n) {
  const double trials = std::max(1.0, std::round(mean / success));
  success = std::min(mean / trials, 1.0);
  if (success >= 1.0) return 0;
  if (mean > 64) return std::sqrt(mean * (1.0 - success)) * ExpectedNormalMaximum(n);
  double probability = std::exp(trials * std::log1p(-success));
  double at_most = 0;
  double maximum = 0;
  const double odds = success / (1.0 - success);
  for (double count = 0; count < trials; ++count) {
    at_most += probability;
    const double above = 1.0 - std::pow(std::min(at_most, 1.0), n);
    maximum += above;
    if (count > mean && above < 1e-9) break;
    probability *= (trials - count) / (count + 1.0) * odds;
  }
  return maximum - mean;
}

}  // namespace

double ExpectedDistinctRanks(int num_experts, int top_k, int num_ranks) {
  const double elsewhere = num_experts - static_cast<double>(num_experts) / num_ranks;
  double missed = 1;
  for (int i = 0; i < top_k; ++i) {
    missed *= std::max(0.0, elsewhere - i) / (num_experts - i);
  }
  return num_ranks * (1.0 - missed);
}

double ExpectedDistinctExperts(int num_experts, int top_k, double num_tokens) {
  return num_experts * (1.0 - std::pow(1.0 - static_cast<double>(top_k) / num_experts, num_tokens));
}

double ExpectedTrafficMaxOverMean(const Routing& routing, double num_tokens) {
  const double ranks = routing.num_ranks;
  if (ranks <= 1 || num_tokens <= 0) return 1;
  const double experts = routing.num_experts;
  const double k = routing.top_k;
  const double mean = num_tokens * k / ranks;
  // Copies share an expert's rows, so a rank's choices behave as those of its share of experts.
  const double share = experts / ranks;
  const double success =
      experts <= 1 ? 1.0
                   : std::clamp(1.0 - (1.0 - share / experts) * (experts - k) / (experts - 1.0),
                                k / experts / routing.copies, 1.0);
  const double excess =
      ExpectedBinomialExcess(mean, success, ranks) * std::sqrt(ranks / (ranks - 1.0)) / mean;
  // One token sends a rank no more rows than it has experts, nor than the token has.
  const double most = std::min(std::max(share * routing.copies, 1.0), k) * ranks / k;
  const double favourite =
      (routing.router_max_over_mean - 1.0) / std::max(1.0, share * routing.copies);
  // Some rank has at least one row.
  const double least = num_tokens >= 1 ? std::max(1.0, 1.0 / mean) : 1.0;
  return std::clamp(1.0 + excess + favourite, least, std::max(most, least));
}

}  // namespace moe::planner
