// The targets that the project was founded on, as numbers: what each attempt reaches under the
// scenario's conditions, what stands in its way, and which change gets there.
//
// Tested by tests/planner/founding_test.cc.
#ifndef MOE_PLANNER_FOUNDING_H_
#define MOE_PLANNER_FOUNDING_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/prediction.h"

namespace moe::planner {

inline constexpr double kFoundingSeconds = 0.008;  // of a forward pass
inline constexpr double kFoundingRate = 120'000;   // sequences/s
inline constexpr double kFoundingUtilization = 0.95;
inline constexpr double kFoundingMemoryEfficiency = 0.88;
inline constexpr double kFoundingLatencySaved = 0.60;  // 60% to 70%
inline constexpr double kFoundingSpeedup = 8;          // 8 to 10 times
// Sequences in flight that advance at kFoundingRate in steps of kFoundingSeconds.
inline constexpr double kFoundingBatch = kFoundingRate * kFoundingSeconds;

// One way to try it, each a change of an earlier one.
struct Attempt {
  std::string change = {};  // "as founded: ...", "split attention ..."
  Scenario scenario = {};   // with the change; its batch is the one of the targets
  Layout layout = {};
  // Empty: the layout cannot work there, `refusal` says why.
  std::optional<Prediction> prediction = {};
  std::string refusal = {};
};

enum class TargetKind {
  kTime,          // seconds of a forward pass, at most
  kRate,          // sequences/s in passes of at most kFoundingSeconds, at least
  kUtilization,   // share, at least
  kMemory,        // share of the bytes in use that hold nothing twice, at least
  kLatencySaved,  // share, beside experts that are each cut over several GPUs, at least
  kSpeedup,       // times the rate of ranks that compute one after another, at least
};

struct Outcome {
  size_t attempt = 0;  // index into FoundingReport::attempts
  double value = 0;
  bool met = false;
  // Where the founding batch does not meet it, but for kTime and kRate: the least batch that does,
  // and the seconds of a forward pass there. Empty: none that the memory holds.
  std::optional<double> batch_that_meets = {};
  double seconds_there = 0;
};

struct FoundingTarget {
  TargetKind kind = TargetKind::kTime;
  double goal = 0;
  std::vector<Outcome> outcomes = {};  // of the attempts that can work, in their order

  // The first that meets the goal; null: none.
  const Outcome* first_met() const;
  // The one that meets it with another batch, in the shortest pass; null: none.
  const Outcome* met_elsewhere() const;
  // REQUIRES: outcomes is not empty.
  const Outcome& best() const;
};

struct FoundingReport {
  std::vector<Attempt> attempts = {};
  std::optional<Layout> spread =
      {};  // what kLatencySaved is beside; empty: the GPUs do not allow it
  std::vector<FoundingTarget> targets = {};
};

// `libraries`: exchange libraries that the attempts may use beside the scenario's; those started by
// the GPU are tried. Fails with CheckScenario's error, or if no attempt can work.
absl::StatusOr<FoundingReport> EvaluateFounding(const Scenario& scenario,
                                                const std::vector<ExchangeLibrary>& libraries);

}  // namespace moe::planner

#endif  // MOE_PLANNER_FOUNDING_H_
