// An attention rank's part of a step: its sequences, their KV cache, the layer loop, the next
// tokens.
//
// All that a step needs stands in its plan, and rows overwrite the cache at their positions, so a
// step that was cut off by the end of an epoch is simply run again in the next one.
//
// Tested by tests/system/bitwise_test.cc and golden_test.cc.
#ifndef MOE_WORKER_ENGINE_OWNER_H_
#define MOE_WORKER_ENGINE_OWNER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "proto/step.pb.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/exchange/exchange.h"
#include "worker/model/forward.h"

namespace moe::engine {

// Where an owner's time went. Written by the engine thread, read by any.
class StepTimes {
 public:
  enum Part { kAttention, kRoute, kDispatch, kExperts, kCombine, kLogits, kSampling, kNumParts };
  static std::string_view PartName(Part part);

  void Add(Part part, int64_t nanoseconds) {
    nanoseconds_[part].fetch_add(nanoseconds, std::memory_order_relaxed);
  }
  double seconds(Part part) const {
    return 1e-9 * static_cast<double>(nanoseconds_[part].load(std::memory_order_relaxed));
  }
  // Without waiting for other ranks: what kExperts counts includes that wait.
  double total_seconds() const;

 private:
  std::array<std::atomic<int64_t>, kNumParts> nanoseconds_{};
};

struct OwnerOptions {
  int rank = 0;
  bool replicated = false;  // compute every sequence, whoever owns it
  bool samples = true;      // false for replicas other than rank 0: they leave logits alone
};

// Not thread-safe: lives on the engine thread. Survives epochs.
class Owner {
 public:
  // The pointers are not owned and must outlive this.
  Owner(const OwnerOptions& options, model::DecoderModel* model, KvBlockPool* blocks,
        const kernels::Context& context, StepTimes* times);

  // Runs this rank's slices of `plan` through `exchange` and draws tokens. A plan without slices of
  // this rank gives an empty result. Internal for a plan that contradicts what this rank knows;
  // Aborted or DeadlineExceeded from the exchange. A sequence whose logits are not finite gets an
  // error in its result and harms no other.
  absl::StatusOr<v1::StepResult> RunStep(const v1::StepPlan& plan, exchange::Exchange* exchange);

  // Forgets all sequences and their KV cache.
  void DropAll();

 private:
  struct Sequence {
    std::vector<int32_t> tokens;  // prompt, then generated
    int num_prompt_tokens = 0;
    v1::SamplingParams sampling;
  };
  // A row whose logits are wanted.
  struct LogitRow {
    int row;
    int slice_idx;
    int32_t prompt_token;  // the prompt token that follows, or -1: draw
  };

  bool IsMine(uint32_t owner) const {
    return options_.replicated || owner == static_cast<uint32_t>(options_.rank);
  }
  void ApplySequences(const v1::StepPlan& plan);
  absl::Status GatherRows(const v1::StepPlan& plan);
  absl::Status RunLayers(uint64_t step, exchange::Exchange* exchange);
  void Draw(v1::StepResult* result);
  absl::Status DrawRow(const LogitRow& logit_row, absl::Span<float> logits,
                       v1::SequenceResult* result);

  const OwnerOptions options_;
  model::DecoderModel* const model_;
  KvBlockPool* const blocks_;
  const kernels::Context context_;
  StepTimes* const times_;
  absl::flat_hash_map<uint64_t, Sequence> sequences_;

  // Of the current step.
  std::vector<const v1::SequenceSlice*> my_slices_;
  std::vector<kernels::AttentionSlice> rows_;
  std::vector<int32_t> tokens_;
  std::vector<LogitRow> logit_rows_;
};

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_OWNER_H_
