#include "cli/plan/hardware_options.h"

#include <utility>

namespace moe::cli {

namespace {

constexpr int kMaxGpusPerNode = 1024;

}  // namespace

HardwareNames NamesOf(const HardwareOptions& options) {
  HardwareNames names = options.names;
  if (!options.machine.empty()) names.gpu = names.library = options.machine;
  return names;
}

void AddHardwareOptions(CLI::App* command, HardwareOptions* options) {
  command->add_option("--model", options->model,
                      "Name of a published model, folder with a config.json, or the file");
  auto* machine = command->add_option(
      "--machine", options->machine,
      "A file that `moe calibrate` wrote: ranks on CPUs share that machine's cores");
  auto* gpu = command
                  ->add_option("--gpu", options->names.gpu,
                               "Kind of GPU: a name, or a .json file like those of "
                               "planner/devices")
                  ->capture_default_str();
  command
      ->add_option("--link", options->names.link,
                   "Network link of each GPU: 400Gb/s, 50GB/s, a name, or a .json file")
      ->capture_default_str();
  auto* library = command
                      ->add_option("--library", options->names.library,
                                   "What moves rows between GPUs: a name, or a .json file")
                      ->capture_default_str();
  auto* per_node =
      command->add_option("--gpus-per-node", options->gpus_per_node, "GPUs that NVLink joins")
          ->check(CLI::Range(1, kMaxGpusPerNode))
          ->capture_default_str();
  machine->excludes(gpu)->excludes(library)->excludes(per_node);
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
  // All ranks are on the one machine.
  scenario->network.gpus_per_node =
      options.machine.empty() ? options.gpus_per_node : kMaxGpusPerNode;
  return ReadHardware(NamesOf(options), &scenario->device, &scenario->network);
}

}  // namespace moe::cli
