#include "worker/model/forward.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "absl/strings/str_format.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/router.h"

namespace moe::model {
namespace {

using kernels::BFloat16;

int64_t BlockElements(const ModelConfig& config) {
  return int64_t{config.num_kv_heads} * kernels::kKvBlockTokens * config.head_dim;
}

}  // namespace

uint64_t KvBlockBytes(const ModelConfig& config) {
  return static_cast<uint64_t>(config.num_layers) * 2 * BlockElements(config) * sizeof(BFloat16);
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const ModelConfig& config,
                                                         int num_blocks) {
  const uint64_t num_bytes = KvBlockBytes(config) * num_blocks;
  void* memory = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("cannot reserve %d bytes for the KV cache", num_bytes));
  }
  madvise(memory, num_bytes, MADV_HUGEPAGE);
  return std::unique_ptr<KvCache>(new KvCache(config, num_blocks, memory, num_bytes));
}

KvCache::KvCache(const ModelConfig& config, int num_blocks, void* memory, uint64_t num_bytes)
    : num_blocks_(num_blocks),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      block_elements_(BlockElements(config)),
      memory_(memory),
      num_bytes_(num_bytes) {}

KvCache::~KvCache() { munmap(memory_, num_bytes_); }

kernels::KvLayerView KvCache::layer(int layer) const {
  auto* base = static_cast<BFloat16*>(memory_) + int64_t{layer} * num_blocks_ * 2 * block_elements_;
  return {.k = base,
          .v = base + block_elements_,
          .block_stride = 2 * block_elements_,
          .num_kv_heads = num_kv_heads_,
          .head_dim = head_dim_};
}

CpuDecoder::CpuDecoder(const ModelConfig& config, const ModelWeights& weights, KvCache* cache,
                       const Options& options, const kernels::Context& context)
    : config_(config),
      weights_(weights),
      cache_(cache),
      max_rows_(options.max_rows),
      max_positions_(options.max_positions > 0
                         ? std::min(options.max_positions, config.max_positions)
                         : config.max_positions),
      times_(options.times),
      context_(context),
      rope_(config.head_dim, max_positions_, config.rope_theta),
      qkv_stride_((config.num_heads + 2 * config.num_kv_heads) * config.head_dim),
      residual_(size_t(max_rows_) * config.hidden),
      normed_(size_t(std::max(max_rows_, kMaxLogitRows)) * config.hidden),
      qkv_(size_t(max_rows_) * qkv_stride_),
      attention_(size_t(max_rows_) * config.num_heads * config.head_dim),
      router_logits_(size_t(max_rows_) * config.num_experts),
      expert_ids_(size_t(max_rows_) * config.top_k),
      expert_weights_(size_t(max_rows_) * config.top_k),
      gathered_(size_t{kMaxLogitRows} * config.hidden),
      logits_(size_t{kMaxLogitRows} * config.vocab_size) {}

absl::Status CpuDecoder::Begin(absl::Span<const kernels::AttentionSlice> slices,
                               absl::Span<const int32_t> tokens) {
  num_rows_ = 0;
  absl::Status status =
      CheckStep(config_, {.max_rows = max_rows_, .max_positions = max_positions_}, slices, tokens);
  if (!status.ok()) return status;
  positions_.clear();
  for (const kernels::AttentionSlice& slice : slices) {
    for (int i = 0; i < slice.count; ++i) positions_.push_back(slice.start + i);
  }
  for (size_t row = 0; row < tokens.size(); ++row) {
    const BFloat16* embedding = weights_.embed + int64_t{tokens[row]} * config_.hidden;
    std::transform(embedding, embedding + config_.hidden, residual_.data() + row * config_.hidden,
                   [](BFloat16 x) { return kernels::ToFloat(x); });
  }
  slices_.assign(slices.begin(), slices.end());
  num_rows_ = static_cast<int>(tokens.size());
  return absl::OkStatus();
}

void CpuDecoder::ClipQkv() {
  const float limit = *config_.clip_qkv;
  for (size_t i = 0; i < size_t(num_rows_) * qkv_stride_; ++i) {
    qkv_[i] = std::clamp(qkv_[i], -limit, limit);
  }
}

void CpuDecoder::Attention(int layer) {
  const LayerWeights& w = weights_.layers[layer];
  const int hidden = config_.hidden;
  const int q_size = config_.num_heads * config_.head_dim;
  const int kv_size = config_.num_kv_heads * config_.head_dim;
  float* q = qkv_.data();
  float* k = q + q_size;
  float* v = k + kv_size;
  const float epsilon = config_.rms_norm_epsilon;
  kernels::RmsNorm(context_, residual_.data(), w.input_norm, epsilon, num_rows_, hidden,
                   normed_.data());
  kernels::Linear(context_, normed_.data(), w.q, num_rows_, hidden, q_size, q, qkv_stride_);
  kernels::Linear(context_, normed_.data(), w.k, num_rows_, hidden, kv_size, k, qkv_stride_);
  kernels::Linear(context_, normed_.data(), w.v, num_rows_, hidden, kv_size, v, qkv_stride_);
  kernels::RmsNormInPlace(context_, q, qkv_stride_, w.q_norm, epsilon, num_rows_, q_size);
  kernels::RmsNormInPlace(context_, k, qkv_stride_, w.k_norm, epsilon, num_rows_, kv_size);
  if (config_.clip_qkv.has_value()) ClipQkv();
  kernels::ApplyRope(context_, rope_, positions_.data(), num_rows_, config_.num_heads, q,
                     qkv_stride_);
  kernels::ApplyRope(context_, rope_, positions_.data(), num_rows_, config_.num_kv_heads, k,
                     qkv_stride_);
  const kernels::KvLayerView cache = cache_->layer(layer);
  const int num_slices = static_cast<int>(slices_.size());
  kernels::StoreKv(context_, slices_.data(), num_slices, k, v, qkv_stride_, cache);
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  kernels::PagedAttention(context_, slices_.data(), num_slices, q, qkv_stride_, config_.num_heads,
                          scale, cache, attention_.data());
  kernels::Linear(context_, attention_.data(), w.o, num_rows_, q_size, hidden, residual_.data(),
                  hidden, kernels::Accumulate::kYes);
}

void CpuDecoder::Route(int layer, BFloat16* rows) {
  const LayerWeights& w = weights_.layers[layer];
  kernels::RmsNorm(context_, residual_.data(), w.post_attention_norm, config_.rms_norm_epsilon,
                   num_rows_, config_.hidden, rows);
  kernels::Linear(context_, rows, w.gate, num_rows_, config_.hidden, config_.num_experts,
                  router_logits_.data(), config_.num_experts);
  kernels::RouteTopK(context_, router_logits_.data(), num_rows_, config_.num_experts, config_.top_k,
                     config_.norm_topk_prob, expert_ids_.data(), expert_weights_.data());
}

void CpuDecoder::Combine(const BFloat16* y) {
  kernels::CombineExperts(context_, y, expert_weights_.data(), num_rows_, config_.top_k,
                          config_.hidden, residual_.data());
}

absl::Span<float> CpuDecoder::Logits(absl::Span<const int> row_idxs) {
  const int num_rows = static_cast<int>(row_idxs.size());
  const size_t hidden = config_.hidden;
  for (int i = 0; i < num_rows; ++i) {
    std::memcpy(gathered_.data() + i * hidden, residual_.data() + row_idxs[i] * hidden,
                hidden * sizeof(float));
  }
  // normed_ is free: its last use was in this step's last layer.
  kernels::RmsNorm(context_, gathered_.data(), weights_.final_norm, config_.rms_norm_epsilon,
                   num_rows, config_.hidden, normed_.data());
  kernels::Linear(context_, normed_.data(), weights_.lm_head, num_rows, config_.hidden,
                  config_.vocab_size, logits_.data(), config_.vocab_size);
  return absl::MakeSpan(logits_.data(), size_t(num_rows) * config_.vocab_size);
}

absl::Status CpuDecoder::Finish(absl::Span<const LogitRequest> requests, Deliver deliver) {
  const size_t vocab_size = static_cast<size_t>(config_.vocab_size);
  std::vector<int> row_idxs;
  for (size_t first = 0; first < requests.size(); first += kMaxLogitRows) {
    const size_t count = std::min(requests.size() - first, size_t{kMaxLogitRows});
    LapTimer timer(times_);
    row_idxs.clear();
    for (size_t i = 0; i < count; ++i) row_idxs.push_back(requests[first + i].row);
    const absl::Span<float> logits = Logits(row_idxs);
    timer.Lap(StepTimes::kLogits);
    for (size_t i = 0; i < count; ++i) {
      LogitResult result;
      result.logits = logits.subspan(i * vocab_size, vocab_size);
      deliver(first + i, result);
    }
  }
  return absl::OkStatus();
}

absl::Status HostLayerLoop::Run(const StepOutline& outline) {
  if (decoder_ == nullptr) {
    return absl::InternalError("a step was planned for a rank that only holds experts");
  }
  LapTimer timer(times_);
  for (int layer = 0; layer < decoder_->config().num_layers; ++layer) {
    decoder_->Attention(layer);
    timer.Lap(StepTimes::kAttention);
    decoder_->Route(layer, exchange_->rows());
    timer.Lap(StepTimes::kRoute);
    absl::Status status =
        exchange_->Dispatch(outline.step, layer, decoder_->num_rows(), decoder_->expert_ids());
    if (!status.ok()) return status;
    timer.Lap(StepTimes::kDispatch);
    const auto outputs = exchange_->Combine();
    if (!outputs.ok()) return outputs.status();
    timer.Lap(StepTimes::kExperts);
    decoder_->Combine(*outputs);
    timer.Lap(StepTimes::kCombine);
  }
  return absl::OkStatus();
}

RankExperts::RankExperts(const ModelConfig& config, const ModelWeights& weights,
                         std::vector<int> experts, const kernels::Context& context)
    : config_(config),
      weights_(weights),
      context_(context),
      counts_(config.num_layers, std::move(experts)),
      local_idx_(config.num_experts, -1) {
  const std::vector<int>& held = counts_.experts();
  for (size_t i = 0; i < held.size(); ++i) local_idx_[held[i]] = static_cast<int>(i);
}

void RankExperts::Run(int layer, absl::Span<const exchange::RoutedRow> rows, const BFloat16* x,
                      BFloat16* out) {
  const auto begin = std::chrono::steady_clock::now();
  rows_.resize(rows.size());
  groups_.clear();
  for (size_t first = 0; first < rows.size();) {
    const int expert = rows[first].expert;
    size_t last = first;
    for (; last < rows.size() && rows[last].expert == expert; ++last) {
      rows_[last] = {.x_row = rows[last].x_row, .out_row = rows[last].out_row};
    }
    groups_.push_back({.weights = weights_.layers[layer].experts[expert],
                       .rows = rows_.data() + first,
                       .num_rows = static_cast<int>(last - first)});
    counts_.AddTokens(layer, local_idx_[expert], last - first);
    first = last;
  }
  kernels::RunExperts(context_, groups_.data(), static_cast<int>(groups_.size()), config_.hidden,
                      config_.intermediate, x, config_.hidden, out, &workspace_);
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  counts_.AddBusy(std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count());
}

}  // namespace moe::model
