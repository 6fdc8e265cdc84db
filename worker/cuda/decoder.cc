#include "worker/cuda/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_format.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/qkv.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/rows.h"
#include "kernels/rope.h"

namespace moe::cuda {

using kernels::AttentionSlice;
using kernels::BFloat16;

absl::StatusOr<std::unique_ptr<CudaDecoder>> CudaDecoder::Create(
    const model::ModelConfig& config, const DeviceWeights* weights, const DecoderMemory& memory,
    RankDeviceExperts* experts, const Options& options, const kernels::cuda::Gpu& gpu,
    const device::Stream* stream) {
  auto upload = device::PinnedBuffer<std::byte>::Create(
      static_cast<int64_t>(StepBytes(LargestStep(options.sizes), options.num_kv_blocks)));
  if (!upload.ok()) return upload.status();
  auto logits = LogitStage::Create(config, options.sizes, weights, memory.buffers, gpu, stream);
  if (!logits.ok()) return logits.status();
  auto decoder = absl::WrapUnique(new CudaDecoder(config, weights, memory, experts, options, gpu,
                                                  stream, *std::move(upload), *std::move(logits)));
  absl::Status status = decoder->FillMemory();
  if (!status.ok()) return status;
  return decoder;
}

CudaDecoder::CudaDecoder(const model::ModelConfig& config, const DeviceWeights* weights,
                         const DecoderMemory& memory, RankDeviceExperts* experts,
                         const Options& options, const kernels::cuda::Gpu& gpu,
                         const device::Stream* stream, device::PinnedBuffer<std::byte> upload,
                         std::unique_ptr<LogitStage> logits)
    : config_(config),
      weights_(weights),
      memory_(memory),
      experts_(experts),
      options_(options),
      gpu_(gpu),
      stream_(stream),
      upload_(std::move(upload)),
      logits_(std::move(logits)),
      qkv_stride_((config.num_heads + 2 * config.num_kv_heads) * config.head_dim) {}

absl::Status CudaDecoder::FillMemory() {
  const kernels::RopeTable rope(config_.head_dim, options_.sizes.max_positions, config_.rope_theta);
  const size_t size =
      static_cast<size_t>(options_.sizes.max_positions) * static_cast<size_t>(config_.head_dim / 2);
  absl::Status status =
      device::CopyToDevice<float>({rope.cos(0), size}, memory_.buffers.rope_cos, *stream_);
  if (!status.ok()) return status;
  status = device::CopyToDevice<float>({rope.sin(0), size}, memory_.buffers.rope_sin, *stream_);
  if (!status.ok()) return status;
  return stream_->Synchronize();  // the table goes away
}

kernels::KvLayerView CudaDecoder::CacheOf(int layer) const {
  const int64_t block_elements =
      int64_t{config_.num_kv_heads} * kernels::kKvBlockTokens * config_.head_dim;
  BFloat16* const base =
      memory_.kv + int64_t{layer} * (options_.num_kv_blocks + 1) * 2 * block_elements;
  return {.k = base,
          .v = base + block_elements,
          .block_stride = 2 * block_elements,
          .num_kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim};
}

absl::Status CudaDecoder::Begin(absl::Span<const AttentionSlice> slices,
                                absl::Span<const int32_t> tokens) {
  if (is_running_) {
    // A step that was cut off by the end of its epoch: its upload may still be read.
    absl::Status status = stream_->Synchronize();
    if (!status.ok()) return status;
    is_running_ = false;
  }
  timer_ = model::LapTimer(options_.times);
  num_rows_ = 0;
  absl::Status status = model::CheckStep(
      config_, {.max_rows = options_.sizes.max_rows, .max_positions = options_.sizes.max_positions},
      slices, tokens);
  if (!status.ok()) return status;
  plan_ = kernels::cuda::PlanAttention(slices, PlanOptions(config_, options_.sizes));
  if (plan_.block_table.size() > static_cast<size_t>(options_.num_kv_blocks)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a step whose sequences have %d KV blocks, of a cache of %d",
                        plan_.block_table.size(), options_.num_kv_blocks));
  }
  for (const int32_t block : plan_.block_table) {
    if (block < 0 || block >= options_.num_kv_blocks) {
      return absl::InvalidArgumentError(
          absl::StrFormat("KV block %d, of a cache of %d", block, options_.num_kv_blocks));
    }
  }
  tokens_.assign(tokens.begin(), tokens.end());
  num_rows_ = static_cast<int>(tokens.size());
  return absl::OkStatus();
}

absl::Status CudaDecoder::Upload(const std::optional<StepShape>& padded) {
  const StepShape shape = ShapeOf(plan_);
  shape_ = padded.value_or(shape);
  if (!Fits(shape, shape_) || !Fits(shape_, LargestStep(options_.sizes))) {
    return absl::InternalError(absl::StrFormat(
        "a step of %d rows with %d and %d units of attention, planned as %d rows with %d and %d "
        "units; there is room for %d rows and %d units",
        shape.num_rows, shape.num_narrow, shape.num_wide, shape_.num_rows, shape_.num_narrow,
        shape_.num_wide, options_.sizes.max_rows, options_.sizes.max_units));
  }
  is_running_ = true;
  const auto table_size = static_cast<int>(plan_.block_table.size());
  Bump host(upload_.data());
  FillStep(plan_, tokens_, shape_,
           {.block = options_.num_kv_blocks, .row = options_.sizes.max_rows},
           LayOutStep(shape_, table_size, &host));
  Bump on_device(memory_.upload);
  step_ = LayOutStep(shape_, table_size, &on_device);
  return device::CopyToDevice<std::byte>({upload_.data(), static_cast<size_t>(host.num_bytes())},
                                         memory_.upload, *stream_);
}

absl::Status CudaDecoder::LookUp() {
  return kernels::cuda::LookUpEmbedding(gpu_, weights_->embed.data, weights_->embed.stride,
                                        step_.tokens, shape_.num_rows, config_.hidden,
                                        memory_.buffers.residual);
}

absl::Status CudaDecoder::Attention(int layer) {
  const DeviceLayer& w = weights_->layers[static_cast<size_t>(layer)];
  const DecoderBuffers& b = memory_.buffers;
  const int num_rows = shape_.num_rows;
  const int hidden = config_.hidden;
  const kernels::KvLayerView cache = CacheOf(layer);
  absl::Status status =
      kernels::cuda::RmsNorm(gpu_, b.residual, nullptr, w.input_norm, config_.rms_norm_epsilon,
                             num_rows, hidden, b.normed, hidden);
  if (!status.ok()) return status;
  status = kernels::cuda::Linear(gpu_, b.normed, hidden, num_rows, w.qkv, b.qkv, qkv_stride_);
  if (!status.ok()) return status;
  status = kernels::cuda::FinishQkv(
      gpu_, {.qkv = b.qkv,
             .stride = qkv_stride_,
             .num_rows = num_rows,
             .num_heads = config_.num_heads,
             .q_norm = w.q_norm,
             .k_norm = w.k_norm,
             .epsilon = config_.rms_norm_epsilon,
             .clip = config_.clip_qkv.value_or(0.0f),
             .rope = {.cos = b.rope_cos, .sin = b.rope_sin, .head_dim = config_.head_dim},
             .positions = step_.positions,
             .slots = step_.slots,
             .cache = cache});
  if (!status.ok()) return status;
  status = kernels::cuda::PagedAttention(
      gpu_, {.q = b.qkv,
             .q_stride = qkv_stride_,
             .num_heads = config_.num_heads,
             .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
             .cache = cache,
             .slices = step_.slices,
             .block_table = step_.block_table,
             .narrow = step_.narrow,
             .wide = step_.wide,
             .merges = step_.merges,
             .num_narrow = shape_.num_narrow,
             .num_wide = shape_.num_wide,
             .num_merges = shape_.num_merges,
             .partial_outputs = b.partial_outputs,
             .partial_sums = b.partial_sums,
             .out = b.attention});
  if (!status.ok()) return status;
  return kernels::cuda::Linear(gpu_, b.attention, w.o.cols, num_rows, w.o, b.residual, hidden,
                               kernels::Accumulate::kYes);
}

absl::Status CudaDecoder::Route(int layer, BFloat16* rows, int32_t* expert_ids) {
  const DeviceLayer& w = weights_->layers[static_cast<size_t>(layer)];
  const DecoderBuffers& b = memory_.buffers;
  absl::Status status = kernels::cuda::RmsNorm(gpu_, b.residual, nullptr, w.post_attention_norm,
                                               config_.rms_norm_epsilon, shape_.num_rows,
                                               config_.hidden, rows, config_.hidden);
  if (!status.ok()) return status;
  status = kernels::cuda::Linear(gpu_, rows, config_.hidden, shape_.num_rows, w.router,
                                 b.router_logits, config_.num_experts);
  if (!status.ok()) return status;
  return kernels::cuda::RouteTopK(gpu_, b.router_logits, shape_.num_rows, config_.num_experts,
                                  config_.top_k, config_.norm_topk_prob, expert_ids,
                                  b.expert_weights, step_.num_chosen);
}

absl::Status CudaDecoder::Combine(const BFloat16* y) {
  return kernels::cuda::CombineExperts(gpu_, y, memory_.buffers.expert_weights, shape_.num_rows,
                                       config_.top_k, config_.hidden, memory_.buffers.residual);
}

absl::Status CudaDecoder::Finish(absl::Span<const model::LogitRequest> requests, Deliver deliver) {
  absl::Status status = experts_->EnqueueCounts();
  if (!status.ok()) return status;
  size_t first = 0;
  do {
    const auto next = logits_->Enqueue(requests, first, num_rows_);
    if (!next.ok()) return next.status();
    // The only wait of a step, unless more rows of logits go to the host than there is room for.
    // After the first one nothing of other ranks is in the stream.
    status = first == 0 && exchange_ != nullptr ? exchange_->FinishStep() : stream_->Synchronize();
    if (!status.ok()) return status;
    if (first == 0) experts_->TakeCounts();
    is_running_ = false;
    timer_.Lap(model::StepTimes::kDevice);
    logits_->Deliver(requests, deliver);
    timer_ = model::LapTimer(options_.times);
    first = *next;
  } while (first < requests.size());
  return absl::OkStatus();
}

}  // namespace moe::cuda
