// An attention rank's part of a step: its sequences, their KV blocks, the next tokens. What is
// computed is the decoder's and the layer loop's, on whatever device.
//
// All that a step needs stands in its plan, and rows overwrite the cache at their positions, so a
// step that was cut off by the end of an epoch is simply run again in the next one.
//
// Tested by tests/system/bitwise_test.cc and golden_test.cc.
#ifndef MOE_WORKER_ENGINE_OWNER_H_
#define MOE_WORKER_ENGINE_OWNER_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/context.h"
#include "proto/step.pb.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/model/decoder.h"
#include "worker/model/step_times.h"

namespace moe::engine {

using model::StepTimes;

struct OwnerOptions {
  int rank = 0;
  int num_ranks = 1;
  bool replicated = false;  // compute every sequence, whoever owns it
  bool samples = true;      // false for replicas other than rank 0: they leave logits alone
};

// Of `plan`; where attention is replicated, all its slices are every rank's. Internal for an owner
// that is not there.
absl::StatusOr<model::StepOutline> OutlineOf(const v1::StepPlan& plan, int num_ranks,
                                             bool replicated);

// Not thread-safe: lives on the engine thread. Survives epochs.
class Owner {
 public:
  // The pointers are not owned and must outlive this; `times` may be null.
  Owner(const OwnerOptions& options, model::Decoder* decoder, KvBlockPool* blocks,
        const kernels::Context& context, StepTimes* times);

  // Runs this rank's slices of `plan` through `layers` and draws tokens. A plan without slices of
  // this rank gives an empty result. Internal for a plan that contradicts what this rank knows;
  // errors of the layers and of the decoder as they are. A sequence whose logits are not finite
  // gets an error in its result and harms no other.
  absl::StatusOr<v1::StepResult> RunStep(const v1::StepPlan& plan, model::LayerLoop* layers);

  // RunStep in two parts, for a device that computes meanwhile: Start returns when all layers are
  // enqueued, or computed by layers that enqueue nothing; Finish waits for the step and draws.
  // `plan` and `layers` must outlive Finish. A step that was started and not finished, because its
  // epoch ended, is forgotten by the next Start.
  absl::Status Start(const v1::StepPlan& plan, model::LayerLoop* layers);
  absl::StatusOr<v1::StepResult> Finish();

  // Forgets all sequences and their KV cache.
  void DropAll();

 private:
  struct Sequence {
    std::vector<int32_t> tokens;  // prompt, then generated
    int num_prompt_tokens = 0;
    size_t num_announced_tokens = 0;  // that came with the NewSequence
    std::optional<int32_t> drawn;     // what follows `tokens`, by the last step that computed it
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
  // Brings the sequence's tokens up to what `slice` computes.
  static absl::Status TakeTokens(const v1::SequenceSlice& slice, Sequence* sequence);
  model::LogitRequest RequestFor(const LogitRow& logit_row) const;
  absl::Status Draw(v1::StepResult* result);
  // What the decoder answered with logits, and what it drew itself.
  absl::Status DrawRow(const LogitRow& logit_row, absl::Span<float> logits,
                       v1::SequenceResult* result);
  absl::Status TakeDrawn(const LogitRow& logit_row, const model::LogitResult& drawn,
                         v1::SequenceResult* result);

  const OwnerOptions options_;
  model::Decoder* const decoder_;
  KvBlockPool* const blocks_;
  const kernels::Context context_;
  StepTimes* const times_;
  absl::flat_hash_map<uint64_t, Sequence> sequences_;

  // Of the current step.
  v1::StepResult result_;  // without results yet
  bool has_rows_ = false;  // there is something to finish
  std::vector<const v1::SequenceSlice*> my_slices_;
  std::vector<kernels::AttentionSlice> rows_;
  std::vector<int32_t> tokens_;
  std::vector<LogitRow> logit_rows_;
  std::vector<model::LogitRequest> requests_;  // for logit_rows_
};

}  // namespace moe::engine

#endif  // MOE_WORKER_ENGINE_OWNER_H_
