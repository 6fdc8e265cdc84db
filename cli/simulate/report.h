// What `moe simulate` prints, as text and as JSON in base units. Pure.
//
// Tested by tests/cli/simulate/report_test.cc.
#ifndef MOE_CLI_SIMULATE_REPORT_H_
#define MOE_CLI_SIMULATE_REPORT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "simulator/simulation.h"

namespace moe::cli {

// How the load was asked for, for people.
struct LoadText {
  std::string arrivals;
  std::string input_tokens;
  std::string output_tokens;
  std::string router;
  std::string steps = {};  // the file of measured step times; empty: the planner's
};

std::string FormatSimulation(const simulator::Config& config, const LoadText& load,
                             const simulator::Result& result);
nlohmann::json SimulationToJson(const simulator::Config& config, const LoadText& load,
                                const simulator::Result& result);

}  // namespace moe::cli

#endif  // MOE_CLI_SIMULATE_REPORT_H_
