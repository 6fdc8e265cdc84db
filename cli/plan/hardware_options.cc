#include "cli/plan/hardware_options.h"

#include <utility>

namespace moe::cli {

void AddHardwareOptions(CLI::App* command, HardwareOptions* options) {
  command->add_option("--model", options->model,
                      "Name of a published model, folder with a config.json, or the file");
  command
      ->add_option("--gpu", options->names.gpu,
                   "Kind of GPU: a name, or a .json file like those of "
                   "planner/devices")
      ->capture_default_str();
  command
      ->add_option("--link", options->names.link,
                   "Network link of each GPU: 400Gb/s, 50GB/s, a name, or a .json file")
      ->capture_default_str();
  command
      ->add_option("--library", options->names.library,
                   "What moves rows between GPUs: a name, or a .json file")
      ->capture_default_str();
  command->add_option("--gpus-per-node", options->gpus_per_node, "GPUs that NVLink joins")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

absl::Status ReadHardwareOptions(const HardwareOptions& options, planner::Scenario* scenario) {
  if (options.model.empty()) {
    return absl::InvalidArgumentError(
        "--model is missing: the name of a published model, a folder with a config.json, or the "
        "file");
  }
  auto shape = ReadModel(options.model);
  if (!shape.ok()) return shape.status();
  scenario->model = *std::move(shape);
  scenario->network.gpus_per_node = options.gpus_per_node;
  return ReadHardware(options.names, &scenario->device, &scenario->network);
}

}  // namespace moe::cli
