// The engine of one group: its real leader (worker/engine/leader.h), which schedules, admits and
// preempts as it does in a worker, and modelled ranks, which take the time that the planner's cost
// model gives for each step and then answer with some token.
//
// Tested by tests/simulator/engine_test.cc.
#ifndef MOE_SIMULATOR_ENGINE_H_
#define MOE_SIMULATOR_ENGINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "planner/prediction.h"
#include "proto/engine.pb.h"
#include "proto/step.pb.h"
#include "simulator/router.h"
#include "simulator/step_rows.h"
#include "simulator/step_times.h"
#include "worker/engine/leader.h"

namespace moe::simulator {

struct EngineOptions {
  planner::Scenario scenario;
  planner::Layout layout;
  engine::LeaderOptions leader;
  std::optional<StepTimes> step_times = {};  // in place of the planner's
};

// One step: what is in it, and how long it takes.
struct StepCost {
  planner::StepRows rows = {};
  planner::ForwardTime time = {};               // empty if the time was measured
  std::optional<double> measured_seconds = {};  // of a whole step
  double traffic_max_over_mean = 1;

  double seconds() const { return measured_seconds.value_or(time.total_seconds()); }
};

// Seconds of the parts of all steps, as ForwardTime names them.
struct StepTotals {
  int64_t num_steps = 0;
  int64_t num_prefill_steps = 0;  // with rows of prompts
  double rows = 0;
  double traffic = 0;  // busiest expert rank beside the mean, summed over steps
  double seconds = 0;
  double busy_seconds = 0;  // of an average GPU
  double attention_seconds = 0;
  double kv_seconds = 0;
  double dense_seconds = 0;  // with the router
  double expert_seconds = 0;
  double head_seconds = 0;
  double exchange_seconds = 0;
  double tensor_seconds = 0;
  double host_seconds = 0;
  double hidden_seconds = 0;
  double measured_seconds = 0;  // of steps whose parts are not known
  std::array<double, planner::kNumLimits> by_limit = {};

  void Add(const StepCost& step);
  void Add(const StepTotals& other);
};

// Not thread-safe. A step is begun, then ends or is dropped.
class Engine {
 public:
  // `router` and `sink` are not owned. REQUIRES: engine::Leader::Create accepts options.leader.
  Engine(const EngineOptions* options, RouterModel* router, engine::EventSink* sink);

  // The process of rank 0 has loaded, and knows no sequence.
  void StartLeader();
  // It ended. Returns the tokens whose KV cache is lost with it.
  int64_t LoseLeader();
  bool has_leader() const { return leader_ != nullptr; }
  // As in a worker: with the epoch that becomes active and the owners whose process is another one
  // than before. Returns the tokens whose KV cache is lost. REQUIRES: has_leader().
  int64_t ChangeEpoch(uint64_t epoch, absl::Span<const int> lost_owners);

  // REQUIRES: has_leader().
  std::optional<engine::v1::Rejected> Submit(uint64_t client, engine::v1::Submit submit,
                                             absl::Time now);
  void Cancel(uint64_t client, uint64_t request);
  void ClientGone(uint64_t client);
  engine::v1::EngineStats stats() const;

  // REQUIRES: has_leader().
  bool has_work() const { return leader_->HasWork(); }
  // How long the next step takes; nothing if there is nothing to compute.
  // REQUIRES: has_leader(), no step runs.
  std::optional<absl::Duration> BeginStep(absl::Time now);
  bool step_runs() const { return plan_.has_value(); }
  // Its tokens reach the sink. Internal: the leader refuses the results, which is a mistake here.
  absl::Status EndStep(absl::Time now);
  // Its epoch ended first.
  void DropStep() { plan_.reset(); }

  const StepTotals& totals() const { return totals_; }
  // Of all leaders of this group.
  uint64_t num_preemptions() const;
  uint64_t num_prompt_tokens() const;

 private:
  // A stay of a sequence on an owner (see leader.h), as the owner knows it.
  struct Stay {
    int owner = 0;
    int num_computed = 0;
    int num_left = 0;  // tokens to draw
  };

  int64_t LoseStays(absl::Span<const int> owners);
  void FollowPlan();

  const EngineOptions* const options_;
  RouterModel* const router_;
  engine::EventSink* const sink_;
  StepRowCounter counter_;
  std::unique_ptr<engine::Leader> leader_;
  std::optional<engine::v1::StepPlan> plan_;  // of the step that runs
  StepCost cost_;                             // of it
  engine::v1::StepResult result_;             // kept for its memory
  absl::flat_hash_map<uint64_t, Stay> stays_;
  StepTotals totals_;
  uint64_t earlier_preemptions_ = 0;  // of leaders that are gone
  uint64_t earlier_prompt_tokens_ = 0;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_ENGINE_H_
