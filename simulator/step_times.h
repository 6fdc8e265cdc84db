// Step times as they were measured on real ranks, in place of the planner's: for machines that no
// roofline describes, such as 64 processes on a few cores.
//
// Tested by tests/simulator/step_times_test.cc.
#ifndef MOE_SIMULATOR_STEP_TIMES_H_
#define MOE_SIMULATOR_STEP_TIMES_H_

#include <vector>

#include "absl/status/status.h"
#include "planner/forward_time.h"

namespace moe::simulator {

struct StepTimes {
  struct Point {
    double rows = 0;
    double seconds = 0;
  };
  std::vector<Point> decode;   // every row is a sequence's next token
  std::vector<Point> prefill;  // every row is of one prompt
};

// InvalidArgument: a curve is empty, its rows do not rise from 1 on, or a time is none.
absl::Status CheckStepTimes(const StepTimes& times);

// Between two points a straight line, before the first its time, behind the last the line on. A
// step with rows of both kinds takes what so many rows of a prompt take, and what its decoding rows
// take longer than as many rows of a prompt. The length of the contexts has no part in it.
// REQUIRES: CheckStepTimes.
double SecondsOf(const StepTimes& times, const planner::StepRows& rows, double decode_rows);

}  // namespace moe::simulator

#endif  // MOE_SIMULATOR_STEP_TIMES_H_
