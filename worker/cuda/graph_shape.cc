#include "worker/cuda/graph_shape.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/attention_plan.h"

namespace moe::cuda {

std::optional<StepShape> GraphShape(const model::StepOutline& outline,
                                    const model::ModelConfig& config, const RankSizes& sizes) {
  if (!outline.is_decode) return std::nullopt;
  const kernels::cuda::AttentionPlanOptions options = PlanOptions(config, sizes);
  StepShape shape;
  for (size_t rank = 0; rank < outline.num_rows.size(); ++rank) {
    const kernels::cuda::DecodeUnits units = kernels::cuda::MostDecodeUnits(
        outline.num_rows[rank], outline.num_keys[rank], outline.longest, options);
    shape.num_rows = std::max(shape.num_rows, outline.num_rows[rank]);
    shape.num_narrow = std::max(shape.num_narrow, units.num_narrow);
    shape.num_wide = std::max(shape.num_wide, units.num_wide);
    shape.num_merges = std::max(shape.num_merges, units.num_merges);
  }
  shape = PaddedShape(shape);
  if (shape.num_rows == 0 || shape.num_rows > kMaxGraphRows || !Fits(shape, LargestStep(sizes))) {
    return std::nullopt;
  }
  return shape;
}

}  // namespace moe::cuda
