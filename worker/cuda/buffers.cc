#include "worker/cuda/buffers.h"

#include <algorithm>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gemm_schedule.h"
#include "kernels/cuda/matrix.h"

namespace moe::cuda {
namespace {

using kernels::BFloat16;

// More rows of logits at once read lm_head no less often that matters, and take V * 4 bytes each.
constexpr int kLogitRows = 256;
// Partial results of split attention. Slices are split while there are fewer blocks than a GPU
// runs at once, so more would be used by nobody.
constexpr int kPartials = 2048;
// Multiprocessors of an H100 or H200.
constexpr int kPlannedSms = 132;

}  // namespace

RankSizes SizesFor(const model::ModelConfig& config, int max_rows, int max_positions,
                   int max_pairs) {
  RankSizes sizes;
  sizes.max_rows = max_rows;
  sizes.max_positions = max_positions;
  sizes.max_logit_rows = std::min(max_rows, kLogitRows);
  sizes.max_partials = static_cast<int>(std::min<int64_t>(
      kPartials, max_rows * kernels::cuda::CeilDiv(max_positions, kernels::cuda::kSplitKeys)));
  // A row has (heads of a KV head) columns. A unit has at least one row's, or a whole warp's.
  const int heads_per_kv = config.num_heads / config.num_kv_heads;
  const auto units_of_row = static_cast<int>(
      1 + kernels::cuda::CeilDiv(heads_per_kv,
                                 int64_t{kernels::cuda::kWarpColumns} * kernels::cuda::kWideWarps));
  sizes.max_units = units_of_row * (max_rows + sizes.max_partials);
  sizes.max_pairs = max_pairs;
  return sizes;
}

DecoderBuffers LayOutDecoder(const model::ModelConfig& config, const RankSizes& sizes,
                             Bump* memory) {
  const int64_t rows = sizes.max_rows;
  const int64_t hidden = config.hidden;
  const int64_t heads_dim = int64_t{config.num_heads} * config.head_dim;
  const int64_t partials = int64_t{sizes.max_partials} * config.num_heads;
  DecoderBuffers buffers;
  buffers.rope_cos = memory->Take<float>(int64_t{sizes.max_positions} * (config.head_dim / 2));
  buffers.rope_sin = memory->Take<float>(int64_t{sizes.max_positions} * (config.head_dim / 2));
  buffers.residual = memory->Take<float>(rows * hidden);
  buffers.normed = memory->Take<BFloat16>(std::max(sizes.max_rows, sizes.max_logit_rows) * hidden);
  buffers.qkv =
      memory->Take<float>(rows * (config.num_heads + 2 * config.num_kv_heads) * config.head_dim);
  buffers.attention = memory->Take<BFloat16>((rows + 1) * heads_dim);
  buffers.partial_outputs = memory->Take<float>(partials * config.head_dim);
  buffers.partial_sums = memory->Take<float>(partials * 2);
  buffers.router_logits = memory->Take<float>(rows * config.num_experts);
  buffers.expert_weights = memory->Take<float>(rows * config.top_k);
  buffers.logits = memory->Take<float>(int64_t{sizes.max_logit_rows} * config.vocab_size);
  Bump requests;
  LayOutRequests(sizes.max_rows, &requests);
  buffers.requests = memory->Take<std::byte>(static_cast<int64_t>(requests.num_bytes()));
  Bump results;
  LayOutResults(sizes.max_rows, kMaxDeviceTop, &results);
  buffers.results = memory->Take<std::byte>(static_cast<int64_t>(results.num_bytes()));
  return buffers;
}

RequestView LayOutRequests(int num_rows, Bump* memory) {
  RequestView view;
  view.rows = memory->Take<int32_t>(num_rows);
  view.draws = memory->Take<kernels::cuda::Draw>(num_rows);
  return view;
}

ResultView LayOutResults(int num_rows, int num_top, Bump* memory) {
  ResultView view;
  view.tokens = memory->Take<int32_t>(num_rows);
  view.stats = memory->Take<kernels::cuda::LogitStats>(num_rows);
  view.chosen = memory->Take<kernels::cuda::TokenLogprob>(num_rows);
  view.top = memory->Take<kernels::cuda::TokenLogprob>(int64_t{num_rows} * num_top);
  return view;
}

ExpertBuffers LayOutExperts(const model::ModelConfig& config, const RankSizes& sizes,
                            int num_local_experts, Bump* memory) {
  ExpertBuffers buffers;
  buffers.gated = memory->Take<BFloat16>(int64_t{sizes.max_pairs} *
                                         kernels::cuda::PaddedStride(config.intermediate));
  buffers.offsets = memory->Take<int32_t>(int64_t{config.num_layers} * (num_local_experts + 1));
  return buffers;
}

LocalExchangeBuffers LayOutLocalExchange(const model::ModelConfig& config, const RankSizes& sizes,
                                         Bump* memory) {
  const int64_t pairs = int64_t{sizes.max_rows} * config.top_k;
  LocalExchangeBuffers buffers;
  buffers.rows = memory->Take<BFloat16>(int64_t{sizes.max_rows} * config.hidden);
  buffers.expert_ids = memory->Take<int32_t>(pairs);
  buffers.pairs = memory->Take<kernels::ExpertRow>(pairs);
  buffers.outputs = memory->Take<BFloat16>(pairs * config.hidden);
  return buffers;
}

kernels::cuda::AttentionPlanOptions PlanOptions(const model::ModelConfig& config,
                                                const RankSizes& sizes) {
  return {.num_heads = config.num_heads,
          .num_kv_heads = config.num_kv_heads,
          .num_sms = kPlannedSms,
          .max_partials = sizes.max_partials};
}

StepShape LargestStep(const RankSizes& sizes) {
  return {.num_rows = sizes.max_rows,
          .num_narrow = sizes.max_units,
          .num_wide = sizes.max_units,
          .num_merges = sizes.max_rows};
}

}  // namespace moe::cuda
