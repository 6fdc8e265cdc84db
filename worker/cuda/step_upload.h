// What a step brings to the device before its layers: tokens, positions and the plan of attention,
// in one piece. Pure.
//
// A decode step may be padded, so that one captured graph serves many steps: the graph sees counts
// and places that follow from a StepShape, and spare rows, units and merges are filled with work
// that touches nothing real. Tested by tests/worker/cuda/step_upload_test.cc.
#ifndef MOE_WORKER_CUDA_STEP_UPLOAD_H_
#define MOE_WORKER_CUDA_STEP_UPLOAD_H_

#include <compare>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cuda/attention_plan.h"
#include "worker/cuda/bump.h"

namespace moe::cuda {

// Counts that launches of a step depend on.
struct StepShape {
  int num_rows = 0;
  int num_narrow = 0;
  int num_wide = 0;
  int num_merges = 0;

  auto operator<=>(const StepShape&) const = default;
};

// The least of 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below `count`.
int PaddedCount(int count);

// Whether no count of `shape` is above that of `other`.
bool Fits(const StepShape& shape, const StepShape& other);

// The shape of a plan, and with every count padded.
StepShape ShapeOf(const kernels::cuda::AttentionPlan& plan);
StepShape PaddedShape(const StepShape& shape);

// The parts of an upload, in one range of host or device memory. Their places follow from the shape
// alone, but for the end of the block table.
struct StepView {
  int32_t* num_chosen = nullptr;                    // [1] rows that are no padding
  int32_t* tokens = nullptr;                        // [num_rows]
  int32_t* positions = nullptr;                     // [num_rows]
  int32_t* slots = nullptr;                         // [num_rows]
  kernels::cuda::DeviceSlice* slices = nullptr;     // [num_rows + 1], the last without rows
  kernels::cuda::AttentionUnit* narrow = nullptr;   // [num_narrow]
  kernels::cuda::AttentionUnit* wide = nullptr;     // [num_wide]
  kernels::cuda::AttentionMerge* merges = nullptr;  // [num_merges]
  int32_t* block_table = nullptr;                   // [table_size]
};
StepView LayOutStep(const StepShape& shape, int table_size, Bump* memory);
uint64_t StepBytes(const StepShape& shape, int table_size);

// Where padding may write: nothing reads it.
struct SpareRoom {
  int block = 0;  // a KV block
  int row = 0;    // of attention's output
};

// Fills `view`, of `shape`, with a plan of no larger counts.
void FillStep(const kernels::cuda::AttentionPlan& plan, absl::Span<const int32_t> tokens,
              const StepShape& shape, const SpareRoom& spare, const StepView& view);

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_STEP_UPLOAD_H_
