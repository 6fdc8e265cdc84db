#include "worker/model/decoder.h"

#include "absl/strings/str_format.h"

namespace moe::model {

absl::Status CheckStep(const ModelConfig& config, const StepLimits& limits,
                       absl::Span<const kernels::AttentionSlice> slices,
                       absl::Span<const int32_t> tokens) {
  if (tokens.size() > static_cast<size_t>(limits.max_rows)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a step of %d rows, where %d are allowed", tokens.size(), limits.max_rows));
  }
  int num_rows = 0;
  for (const kernels::AttentionSlice& slice : slices) {
    if (slice.count < 1 || slice.start < 0 || slice.first_row != num_rows ||
        slice.count > limits.max_rows - num_rows ||
        slice.start > limits.max_positions - slice.count) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a slice of rows %d+%d at position %d, with room for %d positions",
                          slice.first_row, slice.count, slice.start, limits.max_positions));
    }
    num_rows += slice.count;
  }
  if (static_cast<size_t>(num_rows) != tokens.size()) {
    return absl::InvalidArgumentError("the slices of a step do not cover its tokens");
  }
  for (const int32_t token : tokens) {
    if (token < 0 || token >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("token %d, with a vocabulary of %d", token, config.vocab_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace moe::model
