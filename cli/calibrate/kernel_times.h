// How long the kernels take on all cores of this machine, for the shapes of a model and random
// weights that lie in memory, not in caches, unless the whole model does.
//
// Tested by tests/cli/calibrate/calibrate_test.py.
#ifndef MOE_CLI_CALIBRATE_KERNEL_TIMES_H_
#define MOE_CLI_CALIBRATE_KERNEL_TIMES_H_

#include <functional>
#include <string_view>
#include <vector>

#include "cli/calibrate/fit.h"
#include "kernels/context.h"
#include "worker/model/config.h"

namespace moe::cli {

struct KernelTimeOptions {
  int num_cores = 1;   // threads of the kernels
  int num_rounds = 5;  // all measurements take turns so often; medians count
  double seconds_per_sample = 0.05;
  kernels::CpuLevel level = kernels::CpuLevel::kPlain;
};

struct KernelTimes {
  std::vector<ProductSample> products;   // experts and projections, 1 to 256 rows, all cores
  ProductSample one_core;                // experts of one row each, on one core
  std::vector<ProductSample> attention;  // scores and values over the KV cache, all cores
};

// Called with what is measured and the share that is done.
using Progress = std::function<void(std::string_view, double)>;

KernelTimes MeasureKernels(const model::ModelConfig& config, const KernelTimeOptions& options,
                           const Progress& progress);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_KERNEL_TIMES_H_
