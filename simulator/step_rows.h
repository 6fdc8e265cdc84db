// What a step plan asks of the hardware, in the terms of the planner's cost model.
//
// Tested by tests/simulator/step_rows_test.cc.
#ifndef MOE_SIMULATOR_STEP_ROWS_H_
#define MOE_SIMULATOR_STEP_ROWS_H_

#include <vector>

#include "planner/forward_time.h"
#include "proto/step.pb.h"

namespace moe::simulator {

// Keeps its buffers. Not thread-safe.
class StepRowCounter {
 public:
  explicit StepRowCounter(int num_owners) : owners_(static_cast<size_t>(num_owners)) {}

  // The busiest owner is looked for by rows, by cached tokens and by draws apart, so where these
  // are different owners the step is taken to be a little longer than it is. A row at position p
  // attends to p + 1 tokens; a slice reads the keys and values up to its end once. A step with any
  // row of a prompt is of the kind that is not captured.
  // REQUIRES: owners of the plan are in [0, num_owners).
  planner::StepRows Count(const engine::v1::StepPlan& plan);
  // Of the step counted last: rows that are a sequence's next token.
  double decode_rows() const { return decode_rows_; }

 private:
  struct Owner {
    double rows = 0;
    double attended = 0;  // pairs of a row and a token
    double kv_reads = 0;
    double draws = 0;
  };
  std::vector<Owner> owners_;
  double decode_rows_ = 0;
};

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_STEP_ROWS_H_
