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

// Whether the sizes divide: experts over ranks, heads over tensor parts, layers over stages,
// whether the GPUs exist, and whether the library is known over the network where it is needed.
// InvalidArgument says which numbers do not fit, and what would.
absl::Status CheckSizes(const Layout& layout, const ModelShape& model, const Network& network,
                        int num_gpus);

// Whether the cost model knows how ranks share a machine's cores in this layout: it knows one group
// of ranks with whole matrices and all layers. Nothing to refuse where each has a device of its
// own.
absl::Status CheckSharing(const Layout& layout, const Device& device, const Network& network);

// Whether weights, buffers and one sequence of `tokens` tokens fit. ResourceExhausted says what
// takes how much.
absl::Status CheckMemory(const Layout& layout, const ModelShape& model, const Device& device,
                         const Assumptions& assumptions, double tokens);

// "16,384"
std::string WithThousands(double number);

}  // namespace moe::planner

#endif  // MOE_PLANNER_FEASIBILITY_H_
