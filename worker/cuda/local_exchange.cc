#include "worker/cuda/local_exchange.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "kernels/cuda/router.h"

namespace moe::cuda {

absl::Status LocalDeviceExchange::BeginStep(uint64_t step, absl::Span<const int> num_rows,
                                            int bucket) {
  if (num_rows.size() != 1 || num_rows[0] < 1 ||
      std::max(num_rows[0], bucket) > options_.max_rows || (bucket > 0 && num_rows[0] > bucket)) {
    return absl::InternalError(absl::StrFormat(
        "step %d of %d ranks with %d rows here, bucket %d, in a group of one with "
        "room for %d",
        step, num_rows.size(), num_rows.empty() ? 0 : num_rows[0], bucket, options_.max_rows));
  }
  num_rows_ = bucket > 0 ? bucket : num_rows[0];
  return absl::OkStatus();
}

absl::StatusOr<const kernels::BFloat16*> LocalDeviceExchange::RunLayer(int layer) {
  int32_t* const offsets = experts_->offsets(layer);
  absl::Status status =
      kernels::cuda::SortByExpert(gpu_, buffers_.expert_ids, num_rows_, config_.top_k,
                                  config_.num_experts, offsets, buffers_.pairs);
  if (!status.ok()) return status;
  status = experts_->Run(layer,
                         {.offsets = offsets,
                          .rows = buffers_.pairs,
                          .max_pairs = num_rows_ * config_.top_k,
                          .max_pairs_of_expert = num_rows_},
                         buffers_.rows, buffers_.outputs);
  if (!status.ok()) return status;
  return buffers_.outputs;
}

absl::Status LocalDeviceExchange::FinishStep() {
  absl::Status status = end_.Record(*stream_);
  return status.ok() ? end_.WaitAtMost(options_.step_deadline) : status;
}

}  // namespace moe::cuda
