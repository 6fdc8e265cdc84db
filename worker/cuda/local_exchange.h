// The exchange of a group of one: every row's experts are here.
#ifndef MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_
#define MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/experts.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/config.h"

namespace moe::cuda {

class LocalDeviceExchange : public exchange::DeviceExchange {
 public:
  struct Options {
    int max_rows = 0;
    absl::Duration step_deadline = absl::InfiniteDuration();
  };

  // `experts` holds all experts of the model; not owned, as the buffers and `stream`, which is
  // gpu.stream, are not. `end` is for its own use.
  LocalDeviceExchange(const model::ModelConfig& config, RankDeviceExperts* experts,
                      const LocalExchangeBuffers& buffers, const Options& options,
                      const kernels::cuda::Gpu& gpu, const device::Stream* stream,
                      device::Event end)
      : config_(config),
        experts_(experts),
        buffers_(buffers),
        options_(options),
        gpu_(gpu),
        stream_(stream),
        end_(std::move(end)) {}

  kernels::BFloat16* rows() override { return buffers_.rows; }
  int32_t* expert_ids() override { return buffers_.expert_ids; }
  bool TakesBucket(int bucket) const override { return bucket <= options_.max_rows; }
  absl::Status BeginStep(uint64_t step, absl::Span<const int> num_rows, int bucket) override;
  absl::StatusOr<const kernels::BFloat16*> RunLayer(int layer) override;
  // A step that does not end within its deadline has lost the device: device::IsDeviceLost.
  absl::Status FinishStep() override;

 private:
  const model::ModelConfig& config_;
  RankDeviceExperts* const experts_;
  const LocalExchangeBuffers buffers_;
  const Options options_;
  const kernels::cuda::Gpu gpu_;
  const device::Stream* const stream_;
  device::Event end_;  // of the step
  int num_rows_ = 0;   // with those that fill a bucket
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_LOCAL_EXCHANGE_H_
