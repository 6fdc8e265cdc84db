// Expert load as text: how many tokens each expert ran, and a heatmap of layer x expert.
//
// Tested by tests/cli/expert_table_test.cc.
#ifndef MOE_CLI_EXPERT_TABLE_H_
#define MOE_CLI_EXPERT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace moe::cli {

struct ExpertLoad {
  int num_layers = 0;
  int num_experts = 0;
  std::vector<uint64_t> tokens;  // [num_layers, num_experts]
};

struct ExpertTableOptions {
  bool heatmap = true;
  int num_extremes = 5;  // how many of the hottest and coldest to name
  int columns = 8;       // experts in one line of the table
};

// REQUIRES: load.tokens has num_layers * num_experts entries.
std::string FormatExpertLoad(const ExpertLoad& load, const ExpertTableOptions& options);

}  // namespace moe::cli

#endif  // MOE_CLI_EXPERT_TABLE_H_
