// The exchange of a group of one: every row's experts are here.
#ifndef MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_
#define MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/experts.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/config.h"

namespace moe::cuda {

// What it enqueues follows from the number of rows alone, so a captured graph may hold it.
class LocalDeviceExchange : public exchange::DeviceExchange {
 public:
  // `experts` holds all experts of the model; not owned, as the buffers and `stream`, which is
  // gpu.stream, are not.
  LocalDeviceExchange(const model::ModelConfig& config, RankDeviceExperts* experts,
                      const LocalExchangeBuffers& buffers, int max_rows,
                      const kernels::cuda::Gpu& gpu, const device::Stream* stream)
      : config_(config),
        experts_(experts),
        buffers_(buffers),
        max_rows_(max_rows),
        gpu_(gpu),
        stream_(stream) {}

  kernels::BFloat16* rows() override { return buffers_.rows; }
  int32_t* expert_ids() override { return buffers_.expert_ids; }
  absl::Status BeginStep(uint64_t step, absl::Span<const int> num_rows) override;
  absl::StatusOr<const kernels::BFloat16*> RunLayer(int layer) override;
  absl::Status FinishStep() override { return stream_->Synchronize(); }

 private:
  const model::ModelConfig& config_;
  RankDeviceExperts* const experts_;
  const LocalExchangeBuffers buffers_;
  const int max_rows_;
  const kernels::cuda::Gpu gpu_;
  const device::Stream* const stream_;
  int num_rows_ = 0;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_
