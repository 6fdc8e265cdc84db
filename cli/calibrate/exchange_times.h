// What it takes rows to reach ranks on this machine and outputs to come back: the shared-memory
// exchange between real processes, with experts that copy their rows.
//
// Tested by tests/cli/calibrate/calibrate_test.py.
#ifndef MOE_CLI_CALIBRATE_EXCHANGE_TIMES_H_
#define MOE_CLI_CALIBRATE_EXCHANGE_TIMES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "cli/calibrate/kernel_times.h"
#include "worker/model/config.h"

namespace moe::cli {

// Of one layer and one owner.
struct ExchangeSample {
  int num_ranks = 0;
  int num_rows = 0;
  double messages = 0;  // other ranks that got rows
  double bytes = 0;     // rows to other ranks and outputs from them
  double seconds = 0;
};

struct ExchangeTimeOptions {
  int max_ranks = 64;
  int num_rounds = 5;
  double seconds_per_sample = 0.05;
};

// Starts child processes and ends them. REQUIRES: this process has one thread.
// Errors of the exchange as they are; Unavailable if processes can't be started.
absl::StatusOr<std::vector<ExchangeSample>> MeasureExchange(const model::ModelConfig& config,
                                                            const ExchangeTimeOptions& options,
                                                            const Progress& progress);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_EXCHANGE_TIMES_H_
