// What a rank has on its GPU, in one allocation, and what runs on it.
#ifndef MOE_WORKER_CUDA_RANK_H_
#define MOE_WORKER_CUDA_RANK_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "kernels/thread_pool.h"
#include "worker/cuda/backend.h"
#include "worker/cuda/decoder.h"
#include "worker/cuda/experts.h"
#include "worker/cuda/local_exchange.h"
#include "worker/cuda/memory_plan.h"
#include "worker/cuda/weight_layout.h"
#include "worker/model/backend.h"

namespace moe::cuda {

class CudaRank : public model::RankModel {
 public:
  static absl::StatusOr<std::unique_ptr<CudaRank>> Create(
      const model::Checkpoint& checkpoint, const model::RankSpec& spec, const CudaOptions& options,
      const device::DeviceInfo& info, model::StepTimes* times,
      const model::Checkpoint::Progress& progress);
  ~CudaRank() override;

  const model::LoadReport& report() const override { return report_; }
  std::string description() const override { return description_; }
  model::Decoder* decoder() override { return decoder_.get(); }
  int num_kv_blocks() const override { return plan_.num_kv_blocks; }
  const kernels::Context& context() const override { return context_; }
  const model::ExpertCounts& expert_counts() const override { return experts_->counts(); }
  exchange::DeviceExperts* device_experts() override { return experts_.get(); }
  absl::StatusOr<std::unique_ptr<model::LayerLoop>> MakeLayers(
      const model::RankExchange& exchange) override;

  // Where all of this rank's work is enqueued: an exchange between GPUs is made with it.
  const device::Stream& stream() const { return stream_; }
  const kernels::cuda::Gpu& gpu() const { return gpu_; }
  const RankSizes& sizes() const { return sizes_; }
  // Of a group of one; else null.
  LocalDeviceExchange* local_exchange() const { return local_exchange_.get(); }
  const MemoryPlan& plan() const { return plan_; }

 private:
  // Addresses in memory_.
  struct Layout {
    WeightLayout weights;
    DecoderMemory decoder;
    ExpertBuffers experts;
    LocalExchangeBuffers exchange;
  };

  CudaRank(const model::Checkpoint& checkpoint, const model::RankSpec& spec,
           const CudaOptions& options, const device::DeviceInfo& info, bool overlaps_kernels,
           const MemoryPlan& plan, device::Stream stream, device::DeviceBuffer<std::byte> memory);
  static Layout LayOut(const model::Checkpoint& checkpoint, const model::RankSpec& spec,
                       const MemoryPlan& plan, Bump* memory);
  absl::Status LoadWeights(const Layout& layout, const model::Checkpoint::Progress& progress);
  absl::Status Build(const Layout& layout, model::StepTimes* times);

  const model::Checkpoint& checkpoint_;
  const model::RankSpec spec_;
  const bool graphs_;
  const MemoryPlan plan_;
  const RankSizes sizes_;
  std::string description_;
  model::LoadReport report_;
  kernels::ThreadPool pool_;
  const kernels::Context context_;
  const device::Stream stream_;
  const kernels::cuda::Gpu gpu_;
  const device::DeviceBuffer<std::byte> memory_;
  DeviceWeights weights_;
  std::unique_ptr<RankDeviceExperts> experts_;
  std::unique_ptr<LocalDeviceExchange> local_exchange_;  // of a group of one
  std::unique_ptr<CudaDecoder> decoder_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_RANK_H_
