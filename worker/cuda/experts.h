// The experts that a rank holds on its GPU.
#ifndef MOE_WORKER_CUDA_EXPERTS_H_
#define MOE_WORKER_CUDA_EXPERTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/weight_layout.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/config.h"
#include "worker/model/expert_counts.h"

namespace moe::cuda {

// For the engine thread; the counts may be read by any thread.
class RankDeviceExperts : public exchange::DeviceExperts {
 public:
  // experts: ascending ids. What is pointed to is not owned and must outlive this; work is enqueued
  // in `stream`, which is gpu.stream.
  static absl::StatusOr<std::unique_ptr<RankDeviceExperts>> Create(
      const model::ModelConfig& config, std::vector<int> experts, const DeviceWeights* weights,
      const ExpertBuffers& buffers, int max_pairs, const kernels::cuda::Gpu& gpu,
      const device::Stream* stream);

  // Internal for more pairs than there is room for.
  absl::Status Run(int layer, const exchange::DevicePairs& pairs, const kernels::BFloat16* x,
                   kernels::BFloat16* out) override;

  // [num local experts + 1], device: an exchange that sorts pairs into these offsets of a layer
  // saves a copy.
  int32_t* offsets(int layer) const {
    return buffers_.offsets + int64_t{layer} * (weights_->num_local_experts + 1);
  }

  // At the end of a step: enqueues that its offsets come to the host; and, when the stream has got
  // there, counts them.
  absl::Status EnqueueCounts();
  void TakeCounts();

  const model::ExpertCounts& counts() const { return counts_; }

 private:
  RankDeviceExperts(const model::ModelConfig& config, std::vector<int> experts,
                    const DeviceWeights* weights, const ExpertBuffers& buffers, int max_pairs,
                    const kernels::cuda::Gpu& gpu, const device::Stream* stream,
                    device::PinnedBuffer<int32_t> host_offsets);

  const model::ModelConfig& config_;
  const DeviceWeights* const weights_;
  const ExpertBuffers buffers_;
  const int max_pairs_;
  const kernels::cuda::Gpu gpu_;
  const device::Stream* const stream_;
  const device::PinnedBuffer<int32_t> host_offsets_;  // [num_layers, num_local_experts + 1]
  model::ExpertCounts counts_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_EXPERTS_H_
