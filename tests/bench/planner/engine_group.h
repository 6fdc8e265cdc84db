// The real CPU engine without scheduler and gateway: a group of rank processes over shared memory
// that computes the steps it is told, as the leader's loop runs them.
#ifndef MOE_TESTS_BENCH_PLANNER_ENGINE_GROUP_H_
#define MOE_TESTS_BENCH_PLANNER_ENGINE_GROUP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/step.pb.h"
#include "tests/bench/ranks/rank_processes.h"
#include "worker/model/step_times.h"

namespace moe::bench {

struct EngineGroupOptions {
  std::string model;  // folder of a checkpoint
  int num_ranks = 1;
  int num_attention_ranks = 1;
  int num_cores = 1;  // their threads are shared by the attention ranks, as `moe serve` does it
  int max_rows = 512;
  int max_positions = 1024;
  int kv_tokens = 65536;  // of each attention rank
};

class EngineGroup {
 public:
  // Starts the ranks and waits until they have loaded and are connected. REQUIRES: this process has
  // one thread; it has again when the group is gone.
  static absl::StatusOr<std::unique_ptr<EngineGroup>> Start(const EngineGroupOptions& options);
  ~EngineGroup();

  int vocab_size() const;
  int num_layers() const;
  // Runs a step; fills in its number. Seconds from the plan to the last result.
  absl::StatusOr<double> Run(engine::v1::StepPlan plan);
  // Of rank 0, by part, since it began.
  const model::StepTimes& times() const;
  // Tokens that each expert of rank 0 ran in each layer, since it began: [num_layers * num_experts
  // of the rank], layer-major.
  std::vector<uint64_t> expert_tokens() const;

 private:
  struct Rank;
  explicit EngineGroup(const EngineGroupOptions& options);
  static absl::StatusOr<std::unique_ptr<Rank>> Load(const EngineGroupOptions& options, int rank);
  static absl::Status Follow(const EngineGroupOptions& options, int rank,
                             const std::string& bootstrap);

  RankProcesses others_;
  std::unique_ptr<Rank> leader_;
  uint64_t step_ = 0;
};

}  // namespace moe::bench

#endif  // MOE_TESTS_BENCH_PLANNER_ENGINE_GROUP_H_
