// Distributions of many values.
//
// Tested by tests/simulator/statistics_test.cc.
#ifndef MOE_SIMULATOR_STATISTICS_H_
#define MOE_SIMULATOR_STATISTICS_H_

#include <cstdint>
#include <vector>

#include "simulator/result.h"

namespace moe::simulator {

// Exact. The p-quantile is the value at place ceil(p n) of the sorted n values.
Distribution Summarize(std::vector<double> values);

// For too many values to keep: quantiles are off by at most 0.5%, mean and maximum are exact.
class Histogram {
 public:
  // Values of at most 1e-9 count as 1e-9.
  void Add(double value);
  Distribution Summarize() const;

 private:
  std::vector<int64_t> counts_;  // each of 1% more than the one before
  int64_t count_ = 0;
  double sum_ = 0;
  double max_ = 0;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_STATISTICS_H_
