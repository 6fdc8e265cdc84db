// The forward pass of one rank on the CPU, cut where tokens leave for their experts.
//
// A layer is: Attention (adds to the residual stream), Route (normalised rows and their experts),
// the exchange, Combine (adds the experts' outputs). The residual stream stays in fp32; rows that
// enter a matrix product are rounded to bf16 once. Formulas: transformers,
// models/olmoe/modeling_olmoe.py; order of operations: kernels/numerics.h.
//
// Tested by tests/system/golden_test.cc and bitwise_test.cc.
#ifndef MOE_WORKER_MODEL_FORWARD_H_
#define MOE_WORKER_MODEL_FORWARD_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/context.h"
#include "kernels/experts.h"
#include "kernels/rope.h"
#include "worker/exchange/exchange.h"
#include "worker/model/config.h"
#include "worker/model/decoder.h"
#include "worker/model/expert_counts.h"
#include "worker/model/step_times.h"
#include "worker/model/weights.h"

namespace moe::model {

// Bytes of one KV block (kernels::kKvBlockTokens tokens, all layers, K and V).
uint64_t KvBlockBytes(const ModelConfig& config);

// The KV cache of one owner: all layers in one anonymous mapping, touched only where used.
class KvCache {
 public:
  // ResourceExhausted when the memory can't be reserved. REQUIRES: num_blocks >= 1.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const ModelConfig& config, int num_blocks);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int num_blocks() const { return num_blocks_; }
  kernels::KvLayerView layer(int layer) const;

 private:
  KvCache(const ModelConfig& config, int num_blocks, void* memory, uint64_t num_bytes);

  int num_blocks_;
  int num_kv_heads_;
  int head_dim_;
  int64_t block_elements_;  // of K or V in one layer
  void* memory_;  // [num_layers, num_blocks, 2, num_kv_heads, kKvBlockTokens, head_dim] bf16
  uint64_t num_bytes_;
};

// What is not an expert. Not thread-safe: one engine thread. The rows of a step are the
// concatenated slices; every buffer keeps them until the next Begin.
class CpuDecoder : public Decoder {
 public:
  struct Options {
    int max_rows = 512;          // of one step
    int max_positions = 0;       // longest sequence; 0: the model's
    StepTimes* times = nullptr;  // where the time of logits goes; not owned, may be null
  };

  // `config`, `weights` and `cache` must outlive this.
  CpuDecoder(const ModelConfig& config, const ModelWeights& weights, KvCache* cache,
             const Options& options, const kernels::Context& context);

  // Looks the tokens up.
  absl::Status Begin(absl::Span<const kernels::AttentionSlice> slices,
                     absl::Span<const int32_t> tokens) override;
  // Answers every request with logits.
  absl::Status Finish(absl::Span<const LogitRequest> requests, Deliver deliver) override;

  // residual += o_proj(attention(norm(residual)))
  void Attention(int layer);

  // Writes norm(residual) to `rows` [num_rows, hidden] bf16 and chooses the experts.
  void Route(int layer, kernels::BFloat16* rows);
  // Of the last Route. [num_rows, top_k], ascending within a row.
  const int32_t* expert_ids() const { return expert_ids_.data(); }

  // residual += weighted expert outputs. y [num_rows, top_k, hidden] bf16
  void Combine(const kernels::BFloat16* y);

  // Logits of some rows, [row_idxs.size(), vocab_size] fp32; valid until the next call.
  // REQUIRES: row_idxs.size() <= kMaxLogitRows, each in [0, num_rows).
  static constexpr int kMaxLogitRows = 32;
  absl::Span<float> Logits(absl::Span<const int> row_idxs);

  const ModelConfig& config() const override { return config_; }
  int num_rows() const { return num_rows_; }

 private:
  void ClipQkv();

  const ModelConfig& config_;
  const ModelWeights& weights_;
  KvCache* cache_;
  const int max_rows_;
  const int max_positions_;
  StepTimes* const times_;
  const kernels::Context context_;
  const kernels::RopeTable rope_;
  const int qkv_stride_;  // (num_heads + 2 num_kv_heads) * head_dim

  int num_rows_ = 0;
  std::vector<kernels::AttentionSlice> slices_;
  std::vector<int> positions_;                // [num_rows]
  std::vector<float> residual_;               // [max_rows, hidden]
  std::vector<kernels::BFloat16> normed_;     // [max(max_rows, kMaxLogitRows), hidden]
  std::vector<float> qkv_;                    // [max_rows, qkv_stride]
  std::vector<kernels::BFloat16> attention_;  // [max_rows, num_heads * head_dim]
  std::vector<float> router_logits_;          // [max_rows, num_experts]
  std::vector<int32_t> expert_ids_;           // [max_rows, top_k]
  std::vector<float> expert_weights_;         // [max_rows, top_k]
  std::vector<float> gathered_;               // [kMaxLogitRows, hidden]
  std::vector<float> logits_;                 // [kMaxLogitRows, vocab_size]
};

// The layers of an epoch over an exchange in the memory of the host.
class HostLayerLoop : public LayerLoop {
 public:
  // The pointers are not owned and must outlive this. `decoder` is null for a rank that only holds
  // experts, which never runs a step; `times` may be null.
  HostLayerLoop(CpuDecoder* decoder, exchange::Exchange* exchange, StepTimes* times)
      : decoder_(decoder), exchange_(exchange), times_(times) {}

  bool collective() const override { return false; }
  bool asynchronous() const override { return false; }
  absl::Status Run(const StepOutline& outline) override;

 private:
  CpuDecoder* const decoder_;
  exchange::Exchange* const exchange_;
  StepTimes* const times_;
};

// The experts of this rank. For the engine thread; the counts may be read by any thread.
class RankExperts : public exchange::LocalExperts {
 public:
  // experts: ascending ids that this rank holds.
  RankExperts(const ModelConfig& config, const ModelWeights& weights, std::vector<int> experts,
              const kernels::Context& context);

  void Run(int layer, absl::Span<const exchange::RoutedRow> rows, const kernels::BFloat16* x,
           kernels::BFloat16* out) override;

  const ExpertCounts& counts() const { return counts_; }

 private:
  const ModelConfig& config_;
  const ModelWeights& weights_;
  const kernels::Context context_;
  ExpertCounts counts_;
  std::vector<int> local_idx_;  // [num_experts] index in counts_.experts(), -1 for others
  std::vector<kernels::ExpertGroup> groups_;
  std::vector<kernels::ExpertRow> rows_;
  kernels::ExpertWorkspace workspace_;
};

}  // namespace moe::model

#endif  // MOE_WORKER_MODEL_FORWARD_H_
