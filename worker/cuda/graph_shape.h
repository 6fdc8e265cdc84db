// Which steps are launched as a graph that was captured before, and with what shape. Pure.
//
// All ranks of a group capture and launch together, since their transfers meet; so all that decides
// follows from the step's outline, the model and sizes that all ranks share. A rank with fewer rows
// or shorter sequences is padded like the one with the most, for which the step waits anyway.
//
// Tested by tests/worker/cuda/graph_shape_test.cc.
#ifndef MOE_WORKER_CUDA_GRAPH_SHAPE_H_
#define MOE_WORKER_CUDA_GRAPH_SHAPE_H_

#include <optional>

#include "worker/cuda/buffers.h"
#include "worker/cuda/step_upload.h"
#include "worker/model/config.h"
#include "worker/model/decoder.h"

namespace moe::cuda {

// Steps of more rows of a rank are launched one by one: that costs less than what they compute.
inline constexpr int kMaxGraphRows = 256;

// The shape that every rank with attention has room for, of the rows of the rank with the most:
// that is the exchange's bucket. Nullopt for prompts and for steps that are too large. Of `sizes`,
// what all ranks share counts: all but max_pairs.
std::optional<StepShape> GraphShape(const model::StepOutline& outline,
                                    const model::ModelConfig& config, const RankSizes& sizes);

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_GRAPH_SHAPE_H_
