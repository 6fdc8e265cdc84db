#include "controller/local_group.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/coordinator/placement.h"

namespace moe::controller {

std::vector<std::string> LocalWorkerCommand(const LocalFlags& flags, const std::string& program,
                                            int slot, const std::string& worker_id) {
  std::vector<std::string> command = {
      program,
      "--coordinator",
      absl::StrCat("unix:", flags.run_dir, "/coordinator.sock"),
      "--worker-id",
      worker_id,
      "--slot-hint",
      absl::StrCat(slot),
      "--model",
      flags.model,
      "--engine-address",
      absl::StrCat("unix:", flags.run_dir, "/engine-", slot, ".sock"),
      "--metrics-address",
      "127.0.0.1:0",
      "--kernel-level",
      flags.kernel_level};
  if (!flags.weights.empty()) {
    command.insert(command.end(), {"--weights", flags.weights});
  }
  if (!flags.gpu_of_rank.empty()) {
    const int gpu = flags.gpu_of_rank[static_cast<size_t>(slot)];
    command.insert(command.end(), {"--gpu", absl::StrCat(gpu)});
    if (std::count(flags.gpu_of_rank.begin(), flags.gpu_of_rank.end(), gpu) > 1) {
      command.emplace_back("--shares-gpu");
    }
    // Plans and results go over TCP beside NCCL, between the ranks of this machine.
    if (flags.expert_parallel > 1) {
      command.insert(command.end(), {"--exchange-address", "127.0.0.1:0"});
    }
  }
  command.insert(command.end(), flags.worker_args.begin(), flags.worker_args.end());
  return command;
}

absl::StatusOr<coordinator::GroupOptions> MakeLocalGroup(const LocalFlags& flags, int num_experts,
                                                         int num_layers) {
  if (!flags.gpu_of_rank.empty() &&
      flags.gpu_of_rank.size() != static_cast<size_t>(flags.expert_parallel)) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu-of-rank names ", flags.gpu_of_rank.size(),
                                                   " GPUs for ", flags.expert_parallel,
                                                   " workers"));
  }
  auto placement = coordinator::PlaceInBlocks(num_experts, flags.expert_parallel);
  if (!placement.ok()) return placement.status();
  coordinator::GroupOptions group;
  group.placement = *std::move(placement);
  group.num_layers = num_layers;
  group.num_attention_ranks = flags.attention_ranks;
  group.replicated_attention = flags.attention == "replicated";
  group.limits.set_max_sequences(flags.max_sequences);
  group.limits.set_max_step_tokens(flags.max_step_tokens);
  group.limits.set_max_queue(flags.max_queue);
  group.limits.set_kv_bytes(flags.kv_bytes);
  group.limits.set_max_context(flags.max_context);
  group.limits.set_attention_threads(flags.threads);
  group.limits.set_step_deadline_seconds(flags.step_deadline);
  if (!flags.gpu_of_rank.empty()) coordinator::ExchangeBetweenGpus(&group);
  return group;
}

}  // namespace moe::controller
