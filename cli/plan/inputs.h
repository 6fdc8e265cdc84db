// What `moe plan` reads: models, GPUs, links and exchange libraries, each by a name that is built
// in or by the path of a file.
//
// Tested by tests/cli/plan/plan_test.py.
#ifndef MOE_CLI_PLAN_INPUTS_H_
#define MOE_CLI_PLAN_INPUTS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "planner/hardware.h"
#include "planner/model_shape.h"

namespace moe::cli {

struct ConfigFile {
  std::string json;
  std::string model_name;  // of the folder
};

// `path`: a folder with a config.json, or the file. InvalidArgument with the words `missing` where
// there is neither.
absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path, const std::string& missing);

// A published model's name, a folder with a config.json, or the file.
absl::StatusOr<planner::ModelShape> ReadModel(const std::string& name_or_path);

struct HardwareNames {
  std::string gpu;
  std::string link;  // or a speed
  std::string library;
};

// Fills all but gpus_per_node. Errors name the option.
absl::Status ReadHardware(const HardwareNames& names, planner::Device* device,
                          planner::Network* network);

// A line for each number of the three, with its source.
absl::StatusOr<std::string> FormatSources(const HardwareNames& names);

}  // namespace moe::cli

#endif  // MOE_CLI_PLAN_INPUTS_H_
