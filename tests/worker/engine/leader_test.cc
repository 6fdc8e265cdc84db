#include "worker/engine/leader.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/fake_owners.h"
#include "tests/worker/engine/leader_fixture.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class LeaderTest : public LeaderFixture {};

TEST_F(LeaderTest, PlansAPromptThenItsTokens) {
  MustSubmit(1, Request(5, 3, 10));
  v1::StepPlan plan = Step(200);
  EXPECT_EQ(plan.epoch(), 3u);
  EXPECT_EQ(plan.step(), 1u);
  ASSERT_EQ(plan.new_sequences_size(), 1);
  EXPECT_THAT(plan.new_sequences(0).prompt_tokens(), ElementsAre(100, 101, 102));
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), IsEmpty());
  ASSERT_EQ(plan.slices_size(), 1);
  EXPECT_EQ(plan.slices(0).sequence_id(), plan.new_sequences(0).sequence_id());
  EXPECT_EQ(plan.slices(0).start(), 0u);
  EXPECT_EQ(plan.slices(0).count(), 3u);
  EXPECT_TRUE(plan.slices(0).sample());
  EXPECT_FALSE(plan.slices(0).has_token());

  ASSERT_EQ(received_.size(), 1u);
  EXPECT_EQ(received_[0].client, 1u);
  EXPECT_EQ(received_[0].events.epoch(), 3u);
  EXPECT_EQ(received_[0].events.step(), 1u);
  EXPECT_EQ(LastEvent().request(), 5u);
  EXPECT_EQ(LastEvent().position(), 0u);
  EXPECT_EQ(LastEvent().token(), 200);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::NONE);

  plan = Step(201);
  EXPECT_EQ(plan.step(), 2u);
  EXPECT_EQ(plan.new_sequences_size(), 0);
  EXPECT_EQ(plan.slices(0).start(), 3u);
  EXPECT_EQ(plan.slices(0).count(), 1u);
  EXPECT_EQ(plan.slices(0).token(), 200);
  EXPECT_EQ(LastEvent().position(), 1u);
}

TEST_F(LeaderTest, CutsALongPromptAndSamplesAtItsEnd) {
  MustSubmit(1, Request(5, 20, 5));
  v1::StepPlan plan = Step(200);
  EXPECT_EQ(plan.slices(0).count(), 16u);
  EXPECT_FALSE(plan.slices(0).sample());
  EXPECT_TRUE(received_.empty());
  plan = Step(200);
  EXPECT_EQ(plan.slices(0).start(), 16u);
  EXPECT_EQ(plan.slices(0).count(), 4u);
  EXPECT_FALSE(plan.slices(0).has_token());
  EXPECT_EQ(received_.size(), 1u);
}

TEST_F(LeaderTest, TellsHowLongTheFirstTokenTook) {
  MustSubmit(1, Request(5, 20, 5));
  now_ += absl::Seconds(2);
  Step(200);
  now_ += absl::Seconds(3);
  Step(200);
  EXPECT_EQ(LastEvent().queue_seconds(), 2);
  EXPECT_EQ(LastEvent().prefill_seconds(), 3);
  now_ += absl::Seconds(3);
  Step(200);
  EXPECT_EQ(LastEvent().queue_seconds(), 0);
  EXPECT_EQ(LastEvent().prefill_seconds(), 0);
}

TEST_F(LeaderTest, EndsAtMaxTokens) {
  MustSubmit(1, Request(5, 3, 2));
  Step(200);
  Step(200);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::LENGTH);
  EXPECT_EQ(LastEvent().token(), 200);
  EXPECT_FALSE(leader().HasWork());
  EXPECT_FALSE(leader().NextPlan(now_).has_value());
}

TEST_F(LeaderTest, EndsAtTheContext) {
  MustSubmit(1, Request(5, 28, 1000));
  Step(200);
  Step(200);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::NONE);
  Step(200);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::LENGTH);
  EXPECT_EQ(LastEvent().position(), 1u);
}

TEST_F(LeaderTest, EndsAtAStopTokenAndShowsIt) {
  v1::Submit submit = Request(5, 3, 2);
  submit.mutable_sampling()->add_stop_token_ids(55);
  MustSubmit(1, submit);
  Step(200);
  // Also the last of max_tokens: stop tells more.
  Step(55);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::STOP);
  EXPECT_EQ(LastEvent().token(), 55);
}

TEST_F(LeaderTest, EndsAtTheModelsEndTokenUnlessTold) {
  MustSubmit(1, Request(5, 3, 10));
  Step(kEnd);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::STOP);

  v1::Submit submit = Request(6, 3, 10);
  submit.mutable_sampling()->set_ignore_eos(true);
  submit.mutable_sampling()->add_stop_token_ids(kEnd);
  submit.mutable_sampling()->add_stop_token_ids(55);
  MustSubmit(1, submit);
  const v1::StepPlan plan = Step(kEnd);
  EXPECT_THAT(plan.new_sequences(0).sampling().stop_token_ids(), ElementsAre(55));
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::NONE);
  Step(55);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::STOP);
}

TEST_F(LeaderTest, OwnersLearnWhatEndsASequenceSoThatMinTokensCanBanIt) {
  v1::Submit submit = Request(5, 3, 10);
  submit.mutable_sampling()->add_stop_token_ids(55);
  submit.mutable_sampling()->add_stop_token_ids(3);
  submit.mutable_sampling()->add_stop_token_ids(55);
  MustSubmit(1, submit);
  EXPECT_THAT(MustPlan().new_sequences(0).sampling().stop_token_ids(), ElementsAre(3, kEnd, 55));
}

TEST_F(LeaderTest, AnErrorEndsThatSequenceAlone) {
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  const v1::StepPlan plan = MustPlan();
  std::vector<v1::StepResult> results = Draw(plan, 200);
  v1::SequenceResult* failed = results[0].mutable_results(0);
  failed->set_sampled(false);
  failed->set_error("logits are not finite");
  ASSERT_TRUE(leader().Commit(plan, results, now_).ok());
  ASSERT_EQ(received_.size(), 1u);
  const v1::StepEvents& events = received_[0].events;
  ASSERT_EQ(events.events_size(), 2);
  EXPECT_EQ(events.events(0).finish(), v1::TokenEvent::ERROR);
  EXPECT_EQ(events.events(0).error(), "logits are not finite");
  EXPECT_EQ(events.events(1).finish(), v1::TokenEvent::NONE);
  EXPECT_EQ(Step(200).slices_size(), 1);
}

TEST_F(LeaderTest, EventsOfAStepComeOncePerClient) {
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(2, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  Step(200);
  ASSERT_EQ(received_.size(), 2u);
  EXPECT_EQ(received_[0].client, 1u);
  EXPECT_EQ(received_[0].events.events_size(), 2);
  EXPECT_EQ(received_[1].client, 2u);
  EXPECT_EQ(received_[1].events.events_size(), 1);
}

TEST_F(LeaderTest, CancelForgetsARequestWithoutAnEvent) {
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(2, Request(5, 3, 10));
  Step(200);
  leader().Cancel(1, 5);
  leader().Cancel(1, 5);
  leader().Cancel(1, 99);
  EXPECT_EQ(Step(201).slices_size(), 1);
  EXPECT_EQ(received_.back().client, 2u);
  EXPECT_EQ(leader().stats().num_running(), 1u);
  // Its number can be used again.
  MustSubmit(1, Request(5, 3, 10));
}

TEST_F(LeaderTest, ACancelledRequestThatWaitsNeverRuns) {
  MustSubmit(1, Request(5, 3, 10));
  leader().Cancel(1, 5);
  EXPECT_TRUE(leader().HasWork());
  EXPECT_FALSE(leader().NextPlan(now_).has_value());
  EXPECT_FALSE(leader().HasWork());
}

TEST_F(LeaderTest, ClientGoneForgetsAllOfItsRequests) {
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  MustSubmit(2, Request(5, 3, 10));
  Step(200);
  leader().ClientGone(1);
  EXPECT_EQ(Step(201).slices_size(), 1);
  leader().ClientGone(2);
  EXPECT_FALSE(leader().NextPlan(now_).has_value());
  EXPECT_FALSE(leader().HasWork());
  EXPECT_EQ(leader().stats().kv_usage(), 0);
}

TEST_F(LeaderTest, RefusesWhenTheQueueIsFull) {
  for (uint64_t request = 0; request < 6; ++request) MustSubmit(1, Request(request, 3, 10));
  const auto rejected = leader().Submit(1, Request(6, 3, 10), now_);
  ASSERT_TRUE(rejected.has_value());
  EXPECT_EQ(rejected->request(), 6u);
  EXPECT_EQ(rejected->reason(), v1::Rejected::QUEUE_FULL);
  leader().Cancel(1, 0);
  Step(200);
  MustSubmit(1, Request(6, 3, 10));
}

TEST_F(LeaderTest, SequencesThatContinueAreTakenBeyondTheQueueAndBeforeOthers) {
  for (uint64_t request = 0; request < 6; ++request) MustSubmit(1, Request(request, 3, 10));
  v1::Submit submit = Request(50, 3, 10);
  submit.add_generated_tokens(70);
  MustSubmit(2, submit);
  const v1::StepPlan plan = Step(200);
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(70));
  for (uint64_t request = 51; request < 56; ++request) {
    submit.set_request(request);
    MustSubmit(2, submit);
  }
  submit.set_request(56);
  EXPECT_EQ(leader().Submit(2, submit, now_)->reason(), v1::Rejected::QUEUE_FULL);
}

TEST_F(LeaderTest, ContinuesAtThePositionOfTheSubmission) {
  v1::Submit submit = Request(5, 3, 4);
  submit.add_generated_tokens(70);
  submit.add_generated_tokens(71);
  submit.mutable_sampling()->set_num_prompt_logprobs(1);
  MustSubmit(1, submit);
  v1::StepPlan plan = Step(200);
  EXPECT_EQ(plan.slices(0).count(), 5u);
  EXPECT_TRUE(plan.slices(0).sample());
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(70, 71));
  // They went out with the first token.
  EXPECT_EQ(plan.new_sequences(0).sampling().num_prompt_logprobs(), -1);
  EXPECT_EQ(LastEvent().position(), 2u);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::NONE);
  plan = Step(201);
  EXPECT_EQ(plan.slices(0).token(), 200);
  EXPECT_EQ(LastEvent().position(), 3u);
  EXPECT_EQ(LastEvent().finish(), v1::TokenEvent::LENGTH);
}

TEST_F(LeaderTest, RefusesANumberThatIsInUse) {
  MustSubmit(1, Request(5, 3, 10));
  EXPECT_EQ(leader().Submit(1, Request(5, 3, 10), now_)->reason(), v1::Rejected::INVALID);
  MustSubmit(2, Request(5, 3, 10));
}

TEST_F(LeaderTest, RefusesWhatNeverFitsTheCache) {
  options_.max_context = 100;
  const auto rejected = leader().Submit(1, Request(5, 20, 20), now_);
  ASSERT_TRUE(rejected.has_value());
  EXPECT_EQ(rejected->reason(), v1::Rejected::TOO_LONG);
  EXPECT_THAT(rejected->message(), HasSubstr("40"));
  EXPECT_THAT(rejected->message(), HasSubstr("32"));
  MustSubmit(1, Request(5, 20, 12));
}

TEST_F(LeaderTest, PromptLogprobsOfAllChunksComeWithTheFirstToken) {
  options_.limits.max_step_tokens = 4;
  v1::Submit submit = Request(5, 10, 3);
  submit.mutable_sampling()->set_num_prompt_logprobs(0);
  MustSubmit(1, submit);
  FakeOwners owners(options_.limits, kVocab);
  for (int i = 0; i < 3; ++i) {
    const v1::StepPlan plan = MustPlan();
    ASSERT_TRUE(leader().Commit(plan, *owners.Run(plan), now_).ok());
  }
  ASSERT_EQ(received_.size(), 1u);
  ASSERT_EQ(LastEvent().prompt_logprobs_size(), 10);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(LastEvent().prompt_logprobs(i).logprob(), static_cast<float>(i));
  }
}

TEST_F(LeaderTest, LogprobsPassWhenAskedFor) {
  v1::Submit submit = Request(5, 3, 10);
  MustSubmit(1, submit);
  submit.set_request(6);
  submit.mutable_sampling()->set_num_logprobs(1);
  MustSubmit(1, submit);
  const v1::StepPlan plan = MustPlan();
  std::vector<v1::StepResult> results = Draw(plan, 200);
  for (v1::SequenceResult& result : *results[0].mutable_results()) {
    result.set_logprob(-0.5f);
    result.add_top_logprobs()->set_token(9);
  }
  ASSERT_TRUE(leader().Commit(plan, results, now_).ok());
  const v1::StepEvents& events = received_[0].events;
  EXPECT_EQ(events.events(0).logprob(), 0);
  EXPECT_EQ(events.events(0).top_logprobs_size(), 0);
  EXPECT_EQ(events.events(1).logprob(), -0.5f);
  EXPECT_EQ(events.events(1).top_logprobs(0).token(), 9);
}

TEST_F(LeaderTest, RefusesLimitsUnderWhichNothingRuns) {
  for (const auto& change : std::vector<std::function<void(LeaderOptions&)>>{
           [](auto& o) { o.limits.num_owners = 0; },
           [](auto& o) { o.limits.max_sequences = 0; },
           [](auto& o) { o.limits.max_step_tokens = 0; },
           [](auto& o) { o.limits.kv_blocks_per_owner = 0; },
           [](auto& o) { o.limits.kv_block_tokens = 0; },
           [](auto& o) { o.max_queue = -1; },
           [](auto& o) { o.max_context = 1; },
           [](auto& o) { o.vocab_size = 0; },
       }) {
    LeaderOptions options = options_;
    change(options);
    EXPECT_EQ(Leader::Create(options, 1, this).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(LeaderTest, CountsWhatWasComputed) {
  MustSubmit(1, Request(5, 20, 5));
  Step(200);
  EXPECT_EQ(leader().stats().num_prompt_tokens(), 16u);
  EXPECT_EQ(leader().stats().num_generated_tokens(), 0u);
  EXPECT_EQ(leader().stats().kv_usage(), 0.5);
  Step(200);
  Step(200);
  EXPECT_EQ(leader().stats().num_prompt_tokens(), 20u);
  EXPECT_EQ(leader().stats().num_generated_tokens(), 2u);
  EXPECT_EQ(leader().stats().epoch(), 3u);
  EXPECT_EQ(leader().stats().step(), 3u);
}

}  // namespace
}  // namespace moe::engine
