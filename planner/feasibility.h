// Why a layout cannot work, in numbers.
//
// Tested by tests/planner/feasibility_test.cc.
#ifndef MOE_PLANNER_FEASIBILITY_H_
#define MOE_PLANNER_FEASIBILITY_H_

#include <string>

#include "absl/status/status.h"
#include "planner/hardware.h"
#include "planner/layout.h"
#include "planner/model_shape.h"

namespace moe::planner {

// Whether the sizes divide: experts over ranks, heads over tensor parts, layers over stages, and
// whether the GPUs exist. InvalidArgument says which numbers do not fit, and what would.
absl::Status CheckSizes(const Layout& layout, const ModelShape& model, const Network& network,
                        int num_gpus);

// Whether weights, buffers and one sequence of `tokens` tokens fit. ResourceExhausted says what
// takes how much.
absl::Status CheckMemory(const Layout& layout, const ModelShape& model, const Device& device,
                         const Assumptions& assumptions, double tokens);

// "16,384"
std::string WithThousands(double number);

}  // namespace moe::planner

#endif  // MOE_PLANNER_FEASIBILITY_H_
