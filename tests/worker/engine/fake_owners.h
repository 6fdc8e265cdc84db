// Owners without a model: they keep the books that real ones keep, refuse every plan that
// contradicts them, and draw tokens that depend on all tokens before them.
#ifndef MOE_TESTS_WORKER_ENGINE_FAKE_OWNERS_H_
#define MOE_TESTS_WORKER_ENGINE_FAKE_OWNERS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/step.pb.h"
#include "worker/engine/kv_block_pool.h"
#include "worker/engine/scheduler.h"

namespace moe::engine {

// The token that follows `tokens`: any change of one of them changes it.
int32_t FakeNextToken(absl::Span<const int32_t> tokens, int vocab_size);

// What a sequence generates when nothing goes wrong.
std::vector<int32_t> FakeGeneration(std::vector<int32_t> prompt, int num_tokens, int vocab_size);

class FakeOwners {
 public:
  FakeOwners(const SchedulerLimits& limits, int vocab_size);

  // The results of all owners that have slices. Internal when the plan contradicts what an owner
  // knows, or overdraws its blocks.
  absl::StatusOr<std::vector<v1::StepResult>> Run(const v1::StepPlan& plan);
  // A new process in the place of the owner's.
  void Restart(int owner);
  // Sequences for which an owner holds KV blocks.
  int num_sequences(int owner) const;

 private:
  struct Sequence {
    std::vector<int32_t> tokens;
    size_t num_prompt = 0;
    size_t num_announced = 0;
    std::optional<int32_t> drawn;  // after `tokens`, by the last slice
    int num_prompt_logprobs = -1;
    size_t num_computed = 0;
  };
  struct Owner {
    std::unique_ptr<KvBlockPool> blocks;
    std::map<uint64_t, Sequence> sequences;
  };

  absl::Status RunSlice(const v1::SequenceSlice& slice, Owner& owner, v1::SequenceResult* result);

  const SchedulerLimits limits_;
  const int vocab_size_;
  std::vector<Owner> owners_;
};

}  // namespace moe::engine

#endif  // MOE_TESTS_WORKER_ENGINE_FAKE_OWNERS_H_
