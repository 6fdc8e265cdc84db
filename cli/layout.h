// What `moe serve` decides before it starts anything: width, attention ranks, threads, KV memory.
// Pure; every automatic choice says why.
//
// Tested by tests/cli/layout_test.cc.
#ifndef MOE_CLI_LAYOUT_H_
#define MOE_CLI_LAYOUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/config.h"

namespace moe::cli {

struct LayoutRequest {
  std::optional<int> expert_parallel;  // unset: auto
  std::optional<int> attention_ranks;  // unset: auto
  bool replicated_attention = false;
  std::optional<int> threads;  // unset: all cores that this process may use
  int max_sequences = 64;
  int max_step_tokens = 512;
  int max_context = 0;               // 0: the model's
  std::optional<uint64_t> kv_bytes;  // of all owners together; unset: what fits
  bool on_gpu = false;               // ranks compute on GPUs
  int num_gpus = 0;                  // that workers see, if on_gpu
  bool share_gpus = false;           // ranks may outnumber GPUs: for tests
};

struct Machine {
  int num_cores = 1;
  uint64_t available_bytes = 0;
};

struct Layout {
  int expert_parallel = 1;
  int attention_ranks = 1;
  int threads_per_attention_rank = 1;
  uint64_t kv_bytes_per_owner = 0;  // 0 on a GPU: what is left of its memory
  uint64_t kv_tokens = 0;           // over all owners; 0 if the worker decides
  std::vector<int> gpu_of_rank;     // [expert_parallel]; empty on CPUs
  std::vector<std::string> warnings;
  std::vector<std::string> reasons;  // one sentence for each automatic choice
};

// InvalidArgument names the option and what is allowed; ResourceExhausted says how much memory is
// needed and how much there is.
absl::StatusOr<Layout> DecideLayout(const LayoutRequest& request, const Machine& machine,
                                    const model::ModelConfig& config, uint64_t weight_bytes);

// "512MiB", "2G", "1.5GiB", "1000000": bytes. Units of 1024 with i, of 1000 without.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);
// "1.50 GiB"
std::string FormatBytes(uint64_t num_bytes);

}  // namespace moe::cli

#endif  // MOE_CLI_LAYOUT_H_
