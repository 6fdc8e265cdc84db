// The forward pass of one rank on a GPU, but for its experts.
//
// Everything is enqueued in one stream; the host waits once in a step, in Finish. The plan of
// attention is made on the host and goes up in one copy. Order of operations: kernels/cuda, of
// which every row's bits depend on that row alone.
//
// Tested by tests/worker/cuda/decoder_test.cc.
#ifndef MOE_WORKER_CUDA_DECODER_H_
#define MOE_WORKER_CUDA_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/attention.h"
#include "kernels/bf16.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gpu.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/experts.h"
#include "worker/cuda/logit_stage.h"
#include "worker/cuda/step_upload.h"
#include "worker/cuda/weight_layout.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/config.h"
#include "worker/model/decoder.h"
#include "worker/model/step_times.h"

namespace moe::cuda {

// Device memory of a decoder. Not owned.
struct DecoderMemory {
  DecoderBuffers buffers;
  std::byte* upload = nullptr;      // StepBytes(LargestStep, num_kv_blocks)
  kernels::BFloat16* kv = nullptr;  // [num_layers, num_kv_blocks + 1, 2, num_kv_heads,
                                    //  kKvBlockTokens, head_dim]
};

class CudaDecoder : public model::Decoder {
 public:
  struct Options {
    RankSizes sizes;
    int num_kv_blocks = 0;              // that sequences may use; one more is there for padding
    model::StepTimes* times = nullptr;  // not owned, may be null
  };

  // What is pointed to is not owned and must outlive this; `experts` are this rank's, whose counts
  // end with the step. Work is enqueued in `stream`, which is gpu.stream. Fills what of the memory
  // has to hold something at the start.
  static absl::StatusOr<std::unique_ptr<CudaDecoder>> Create(
      const model::ModelConfig& config, const DeviceWeights* weights, const DecoderMemory& memory,
      RankDeviceExperts* experts, const Options& options, const kernels::cuda::Gpu& gpu,
      const device::Stream* stream);

  const model::ModelConfig& config() const override { return config_; }
  absl::Status Begin(absl::Span<const kernels::AttentionSlice> slices,
                     absl::Span<const int32_t> tokens) override;
  absl::Status Finish(absl::Span<const model::LogitRequest> requests, Deliver deliver) override;

  // The epoch's: its FinishStep is the wait of a step. Not owned; null before the first epoch and
  // after the last one.
  void set_exchange(exchange::DeviceExchange* exchange) { exchange_ = exchange; }
  const exchange::DeviceExchange* exchange() const { return exchange_; }

  // Enqueues what the step that has begun brings to the device; its rows and units of attention
  // padded to `padded`, or as they are. All that is enqueued below follows from that shape.
  // Internal where the step is larger than `padded`, or that than there is room for.
  absl::Status Upload(const std::optional<StepShape>& padded);

  // Enqueue, in this order for each layer: the rows of the embedding, once; residual +=
  // o_proj(attention(norm(residual))); norm(residual) to `rows` [num_rows, hidden] and the chosen
  // experts to `expert_ids` [num_rows, top_k]; residual += weighted outputs of experts `y`
  // [num_rows, top_k, hidden]. All in device memory.
  absl::Status LookUp();
  absl::Status Attention(int layer);
  absl::Status Route(int layer, kernels::BFloat16* rows, int32_t* expert_ids);
  absl::Status Combine(const kernels::BFloat16* y);

 private:
  CudaDecoder(const model::ModelConfig& config, const DeviceWeights* weights,
              const DecoderMemory& memory, RankDeviceExperts* experts, const Options& options,
              const kernels::cuda::Gpu& gpu, const device::Stream* stream,
              device::PinnedBuffer<std::byte> upload, std::unique_ptr<LogitStage> logits);
  absl::Status FillMemory();
  kernels::KvLayerView CacheOf(int layer) const;

  const model::ModelConfig& config_;
  const DeviceWeights* const weights_;
  const DecoderMemory memory_;
  RankDeviceExperts* const experts_;
  const Options options_;
  const kernels::cuda::Gpu gpu_;
  const device::Stream* const stream_;
  const device::PinnedBuffer<std::byte> upload_;
  const std::unique_ptr<LogitStage> logits_;
  const int qkv_stride_;  // (num_heads + 2 num_kv_heads) * head_dim

  exchange::DeviceExchange* exchange_ = nullptr;
  // Of the current step.
  bool is_running_ = false;  // enqueued and not waited for
  kernels::cuda::AttentionPlan plan_;
  std::vector<int32_t> tokens_;  // [num_rows_]
  int num_rows_ = 0;             // without padding
  StepShape shape_;              // with it
  StepView step_;                // in device memory
  model::LapTimer timer_{nullptr};
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_DECODER_H_
