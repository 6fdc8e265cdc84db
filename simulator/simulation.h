// A whole deployment under a load, by discrete events: the real gateway's journal, leaders,
// scheduler and epochs, over modelled processes, devices and links.
//
// Tested by tests/simulator/simulation_test.cc and recovery_test.cc.
#ifndef MOE_SIMULATOR_SIMULATION_H_
#define MOE_SIMULATOR_SIMULATION_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "simulator/failures.h"
#include "simulator/limits.h"
#include "simulator/membership.h"
#include "simulator/result.h"
#include "simulator/router.h"
#include "simulator/step_times.h"
#include "simulator/workload.h"

namespace moe::simulator {

struct Config {
  // Model, device, network and assumptions; its tokens, batch and target are not looked at.
  planner::Scenario scenario;
  planner::Layout layout;
  EngineLimits limits;
  ProcessTimes times;
  RouterSpec router;
  std::optional<StepTimes> step_times;          // in place of the planner's
  std::vector<Request> requests;                // by arrival
  absl::Duration duration = absl::Seconds(60);  // of the window that rates are counted in
  std::vector<Failure> failures;                // before the end of the window
  uint64_t seed = 1;
};

// How far a run is, for people.
struct Progress {
  absl::Duration simulated;  // since the start of the arrivals
  int64_t num_arrived = 0;
  int64_t num_ended = 0;
};

// InvalidArgument for what can't be simulated; Unavailable when the groups never come up. Requests
// arrive once every group serves; after `duration` no more do, and the run ends when all have ended
// and every group has recovered or was given up. `on_progress` is called about once for each
// simulated second and may be empty.
absl::StatusOr<Result> Simulate(const Config& config,
                                const std::function<void(const Progress&)>& on_progress);

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_SIMULATION_H_
