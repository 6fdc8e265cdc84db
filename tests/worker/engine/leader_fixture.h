// A leader and the plans and results that a test gives it by hand.
#ifndef MOE_TESTS_WORKER_ENGINE_LEADER_FIXTURE_H_
#define MOE_TESTS_WORKER_ENGINE_LEADER_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "worker/engine/leader.h"

namespace moe::engine {

inline constexpr int kVocab = 1000;
inline constexpr int kEnd = 7;  // the model's end token

struct Received {
  uint64_t client;
  v1::StepEvents events;
};

class LeaderFixture : public testing::Test, public EventSink {
 protected:
  LeaderFixture() {
    options_.limits = {.num_owners = 1,
                       .max_sequences = 4,
                       .max_step_tokens = 16,
                       .min_prefill_chunk = 4,
                       .kv_blocks_per_owner = 8,
                       .kv_block_tokens = 4};
    options_.max_queue = 2;
    options_.max_context = 30;
    options_.vocab_size = kVocab;
    options_.max_logprobs = 5;
    options_.end_token_ids = {kEnd};
  }

  void OnEvents(uint64_t client, v1::StepEvents events) override {
    received_.push_back({.client = client, .events = std::move(events)});
  }

  Leader& leader() {
    if (leader_ == nullptr) leader_ = *Leader::Create(options_, /*epoch=*/3, this);
    return *leader_;
  }

  static v1::Submit Request(uint64_t request, int num_prompt, uint32_t max_tokens) {
    v1::Submit submit;
    submit.set_request(request);
    for (int i = 0; i < num_prompt; ++i) submit.add_prompt_tokens(100 + i);
    v1::SamplingParams* sampling = submit.mutable_sampling();
    sampling->set_top_p(1);
    sampling->set_repetition_penalty(1);
    sampling->set_max_tokens(max_tokens);
    sampling->set_num_logprobs(-1);
    sampling->set_num_prompt_logprobs(-1);
    return submit;
  }

  void MustSubmit(uint64_t client, const v1::Submit& submit) {
    const auto rejected = leader().Submit(client, submit, now_);
    EXPECT_FALSE(rejected.has_value()) << rejected->message();
  }

  // One result for each slice that samples.
  static std::vector<v1::StepResult> Draw(const v1::StepPlan& plan, int32_t token) {
    std::vector<v1::StepResult> results(1);
    results[0].set_epoch(plan.epoch());
    results[0].set_step(plan.step());
    for (const v1::SequenceSlice& slice : plan.slices()) {
      if (!slice.sample()) continue;
      v1::SequenceResult* result = results[0].add_results();
      result->set_sequence_id(slice.sequence_id());
      result->set_sampled(true);
      result->set_token(token);
    }
    return results;
  }

  v1::StepPlan MustPlan() {
    const auto plan = leader().NextPlan(now_);
    EXPECT_TRUE(plan.has_value());
    return plan.value_or(v1::StepPlan());
  }

  v1::StepPlan Step(int32_t token) {
    v1::StepPlan plan = MustPlan();
    const absl::Status status = leader().Commit(plan, Draw(plan, token), now_);
    EXPECT_TRUE(status.ok()) << status;
    return plan;
  }

  const v1::TokenEvent& LastEvent() {
    return received_.back().events.events(received_.back().events.events_size() - 1);
  }

  LeaderOptions options_;
  std::unique_ptr<Leader> leader_;
  std::vector<Received> received_;
  absl::Time now_ = absl::UnixEpoch();
};

}  // namespace moe::engine

#endif  // MOE_TESTS_WORKER_ENGINE_LEADER_FIXTURE_H_
