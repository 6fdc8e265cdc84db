// One layout under one load: how many sequences it runs at once, its times, rates and cost.
//
// Tested by tests/planner/prediction_test.cc.
#ifndef MOE_PLANNER_PREDICTION_H_
#define MOE_PLANNER_PREDICTION_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "planner/forward_time.h"
#include "planner/hardware.h"
#include "planner/layout.h"
#include "planner/memory.h"
#include "planner/model_shape.h"

namespace moe::planner {

// What is wanted. Decides the batch of each layout, and the order among layouts.
struct Target {
  enum class Kind {
    kThroughput,   // most completed requests per second, as many sequences as memory holds
    kLatency,      // shortest forward pass, one sequence for each GPU
    kTimeAtMost,   // most sequences/s whose forward pass takes no longer than `value` seconds
    kRateAtLeast,  // shortest forward pass that advances `value` sequences/s
  };
  Kind kind = Kind::kThroughput;
  double value = 0;
};

// "throughput", "latency", "8ms", "0.5s", "120000seq/s". InvalidArgument says what can be written.
absl::StatusOr<Target> ParseTarget(absl::string_view text);
std::string DescribeTarget(const Target& target);

struct Scenario {
  ModelShape model = {};
  Device device = {};
  Network network = {};
  Assumptions assumptions = {};
  int num_gpus = 1;
  int input_tokens = 512;
  int output_tokens = 128;
  // Sequences in flight on all GPUs together; empty: each layout takes what suits the target.
  std::optional<double> batch = {};
  Target target = {};

  // Cached tokens of a sequence half through its answer.
  double mean_context() const { return input_tokens + output_tokens / 2.0; }
  double full_context() const { return static_cast<double>(input_tokens) + output_tokens; }
};

// InvalidArgument names the first number of the scenario that makes no sense.
absl::Status CheckScenario(const Scenario& scenario);

struct Prediction {
  Layout layout = {};
  int64_t sequences = 0;      // in flight in each group
  int64_t max_sequences = 0;  // that the memory of a group holds
  MemoryUse memory = {};
  MemoryEfficiency memory_efficiency = {};
  ForwardTime forward = {};             // every sequence advances by one token
  double sequences_per_second = 0;      // advanced by one token, all groups; prompts not counted
  double first_token_seconds = 0;       // one prompt alone, without waiting for others
  double prefill_seconds = 0;           // of one request, of a group that computes many prompts
  double completed_per_second = 0;      // requests, all groups, their prompts included
  double output_tokens_per_second = 0;  // of these
  double utilization = 0;  // share of the forward pass in which an average GPU computes or reads
  bool meets_target = true;

  double total_sequences() const { return static_cast<double>(sequences) * layout.data; }
};

// Most sequences of one group that its memory holds; 0: not one.
int64_t SequencesThatFit(const Scenario& scenario, const Layout& layout);

// Fails with the reason why the layout cannot work (feasibility.h), or cannot run the batch.
absl::StatusOr<Prediction> Predict(const Scenario& scenario, const Layout& layout);

// The same, for a number of sequences in each group.
// REQUIRES: the layout passed CheckSizes and CheckMemory, sequences >= 1.
Prediction PredictAt(const Scenario& scenario, const Layout& layout, int64_t sequences);

// Seconds of a forward pass with that many sequences in each group; PredictAt without the rest.
double ForwardSecondsAt(const Scenario& scenario, const Layout& layout, double sequences);

// Of one million output tokens at `price` for a GPU and hour, for all GPUs of the scenario.
double CostPerMillionTokens(const Scenario& scenario, const Prediction& prediction, double price);

// Whether `a` serves the target better than `b`.
bool IsBetter(const Target& target, const Prediction& a, const Prediction& b);

}  // namespace moe::planner

#endif  // MOE_PLANNER_PREDICTION_H_
