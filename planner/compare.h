// Layouts side by side: over which batches, contexts and link speeds each is the fastest.
//
// Tested by tests/planner/compare_test.cc.
#ifndef MOE_PLANNER_COMPARE_H_
#define MOE_PLANNER_COMPARE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "planner/prediction.h"

namespace moe::planner {

enum class Axis {
  kBatch,      // sequences in flight on all GPUs
  kContext,    // tokens of a sequence; input and output keep their proportion
  kLinkSpeed,  // bytes per second of one GPU's network link
};
std::string AxisName(Axis axis);  // "batch", "context", "link"

// At `value` and above, up to the next crossover, `to` advances more sequences per second than
// `from` did below, at the same number of sequences in flight. Indexes into the layouts.
struct Crossover {
  double value = 0;
  size_t from = 0;
  size_t to = 0;
  // `from` does not fit the memory from here on; it was still the faster one.
  bool out_of_memory = false;
};

struct Sweep {
  Axis axis = Axis::kBatch;
  double min = 0;
  double max = 0;
  std::vector<double> values = {};  // evenly spaced in the logarithm
  // [layout][value]; sequences/s, 0 where the layout does not fit.
  std::vector<std::vector<double>> sequences_per_second = {};
  std::vector<Crossover> crossovers = {};
  size_t best_at_min = 0;
};

// Sequences/s of a layout where the axis has `value` and the rest is the scenario's; 0 where it
// does not fit. On the other axes the batch is `batch`.
double RateAt(const Scenario& scenario, const Layout& layout, Axis axis, double value,
              double batch);

// REQUIRES: every layout passed CheckSizes; 0 < min < max; num_values >= 2; layouts not empty.
Sweep SweepAxis(const Scenario& scenario, const std::vector<Layout>& layouts, Axis axis, double min,
                double max, int num_values, double batch);

struct Comparison {
  std::vector<Prediction> predictions = {};  // in the order of the layouts
  double batch = 0;                          // of all of them, on all GPUs
  std::vector<Sweep> sweeps = {};            // batch, context, link speed
};

// All at the same batch: the scenario's, or the one that the target gives the first layout, or
// what the memory of each holds, whichever is least. Fails with the first layout that cannot work.
absl::StatusOr<Comparison> Compare(const Scenario& scenario, const std::vector<Layout>& layouts);

}  // namespace moe::planner

#endif  // MOE_PLANNER_COMPARE_H_
