#include "worker/cuda/experts.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_format.h"
#include "kernels/cuda/experts.h"

namespace moe::cuda {

absl::StatusOr<std::unique_ptr<RankDeviceExperts>> RankDeviceExperts::Create(
    const model::ModelConfig& config, std::vector<int> experts, const DeviceWeights* weights,
    const ExpertBuffers& buffers, int max_pairs, const kernels::cuda::Gpu& gpu,
    const device::Stream* stream) {
  auto host_offsets = device::PinnedBuffer<int32_t>::Create(int64_t{config.num_layers} *
                                                            (weights->num_local_experts + 1));
  if (!host_offsets.ok()) return host_offsets.status();
  return absl::WrapUnique(new RankDeviceExperts(config, std::move(experts), weights, buffers,
                                                max_pairs, gpu, stream, *std::move(host_offsets)));
}

RankDeviceExperts::RankDeviceExperts(const model::ModelConfig& config, std::vector<int> experts,
                                     const DeviceWeights* weights, const ExpertBuffers& buffers,
                                     int max_pairs, const kernels::cuda::Gpu& gpu,
                                     const device::Stream* stream,
                                     device::PinnedBuffer<int32_t> host_offsets)
    : config_(config),
      weights_(weights),
      buffers_(buffers),
      max_pairs_(max_pairs),
      gpu_(gpu),
      stream_(stream),
      host_offsets_(std::move(host_offsets)),
      counts_(config.num_layers, std::move(experts)) {}

absl::Status RankDeviceExperts::Run(int layer, const exchange::DevicePairs& pairs,
                                    const kernels::BFloat16* x, kernels::BFloat16* out) {
  if (pairs.max_pairs > max_pairs_) {
    return absl::InternalError(absl::StrFormat(
        "%d pairs for the experts of a rank with room for %d", pairs.max_pairs, max_pairs_));
  }
  const int num_local = weights_->num_local_experts;
  if (pairs.offsets != offsets(layer)) {
    absl::Status status = device::CopyToDevice<int32_t>(
        {pairs.offsets, static_cast<size_t>(num_local) + 1}, offsets(layer), *stream_);
    if (!status.ok()) return status;
  }
  return kernels::cuda::RunExperts(gpu_, {.num_experts = num_local,
                                          .hidden = config_.hidden,
                                          .intermediate = config_.intermediate,
                                          .weights = weights_->experts + int64_t{layer} * num_local,
                                          .gate_stride = weights_->gate_stride,
                                          .down_stride = weights_->down_stride,
                                          .offsets = pairs.offsets,
                                          .rows = pairs.rows,
                                          .num_pairs = pairs.max_pairs,
                                          .num_tokens = pairs.max_pairs_of_expert,
                                          .x = x,
                                          .x_stride = config_.hidden,
                                          .gated = buffers_.gated,
                                          .out = out});
}

absl::Status RankDeviceExperts::EnqueueCounts() {
  return device::CopyToHost<int32_t>(
      buffers_.offsets, {host_offsets_.data(), static_cast<size_t>(host_offsets_.size())},
      *stream_);
}

void RankDeviceExperts::TakeCounts() {
  const int num_local = weights_->num_local_experts;
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    const int32_t* const offsets = host_offsets_.data() + int64_t{layer} * (num_local + 1);
    for (int e = 0; e < num_local; ++e) {
      counts_.AddTokens(layer, e, static_cast<uint64_t>(offsets[e + 1] - offsets[e]));
    }
  }
}

}  // namespace moe::cuda
