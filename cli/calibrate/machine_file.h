// A file that describes this machine for `moe plan` and `moe simulate`: a device whose cores ranks
// share, and the exchange between them; each number with its source. Pure.
//
// Tested by tests/cli/calibrate/machine_file_test.cc.
#ifndef MOE_CLI_CALIBRATE_MACHINE_FILE_H_
#define MOE_CLI_CALIBRATE_MACHINE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/calibrate/exchange_times.h"
#include "cli/calibrate/kernel_times.h"
#include "planner/hardware.h"

namespace moe::cli {

struct Measurements {
  std::string date;   // YYYY-MM-DD
  std::string cpu;    // as the system calls it
  std::string level;  // of the kernels
  std::string model;  // whose shapes were measured
  int num_cores = 1;
  int num_rounds = 1;
  double memory_bytes = 0;
  KernelTimes kernels;
  planner::HostTimes host;
  std::vector<ExchangeSample> exchange;
};

// What the samples come to. InvalidArgument where they contradict each other so much that no
// numbers describe them.
struct Machine {
  planner::Device device;
  planner::ExchangeLibrary library;
  double worst_product_error = 0;   // of the matrix products that were measured, relative
  double worst_exchange_error = 0;  // of the exchanges
};
absl::StatusOr<Machine> DescribeMachine(const Measurements& measured);

// The text of the file: what planner/catalog reads as a device and as an exchange.
std::string MachineFileText(const Measurements& measured, const Machine& machine);

}  // namespace moe::cli

#endif  // MOE_CLI_CALIBRATE_MACHINE_FILE_H_
