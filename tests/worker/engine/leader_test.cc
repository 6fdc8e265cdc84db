#include "worker/engine/leader.h"

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/fake_owners.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kVocab = 1000;
constexpr int kEnd = 7;  // the model's end token

struct Received {
  uint64_t client;
  v1::StepEvents events;
};

class LeaderTest : public testing::Test, public EventSink {
 protected:
  LeaderTest() {
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

TEST_F(LeaderTest, ReleasesWhatEndedWithTheOwnersNextSlices) {
  MustSubmit(1, Request(5, 3, 1));
  const v1::StepPlan first = Step(200);
  EXPECT_EQ(leader().stats().kv_usage(), 0);
  MustSubmit(1, Request(6, 3, 5));
  EXPECT_THAT(Step(200).released(), ElementsAre(first.slices(0).sequence_id()));
  EXPECT_THAT(Step(200).released(), IsEmpty());
}

TEST_F(LeaderTest, ReleasesAreRepeatedUntilAPlanWithThemCommits) {
  MustSubmit(1, Request(5, 3, 1));
  const uint64_t ended = Step(200).slices(0).sequence_id();
  MustSubmit(1, Request(6, 3, 5));
  EXPECT_THAT(MustPlan().released(), ElementsAre(ended));
  leader().OnEpochChanged(4, {});
  EXPECT_THAT(Step(200).released(), ElementsAre(ended));
  EXPECT_THAT(Step(200).released(), IsEmpty());
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

TEST_F(LeaderTest, APreemptedSequenceComesBackWholeUnderANewId) {
  options_.limits.kv_blocks_per_owner = 4;
  MustSubmit(1, Request(5, 7, 9));
  MustSubmit(1, Request(6, 7, 9));
  const v1::StepPlan first = Step(200);
  ASSERT_EQ(first.slices_size(), 2);
  const uint64_t preempted = first.slices(1).sequence_id();
  Step(201);  // both fill two blocks
  const v1::StepPlan third = Step(202);
  ASSERT_EQ(third.slices_size(), 1);
  EXPECT_THAT(third.released(), ElementsAre(preempted));
  EXPECT_EQ(leader().stats().num_preemptions(), 1u);
  EXPECT_EQ(leader().stats().num_running(), 1u);
  EXPECT_EQ(leader().stats().num_waiting(), 1u);
  // The first ends; the second is computed again with its two tokens.
  v1::StepPlan plan;
  do plan = Step(203);
  while (plan.new_sequences().empty());
  EXPECT_NE(plan.slices(0).sequence_id(), preempted);
  EXPECT_EQ(plan.slices(0).count(), 9u);
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(200, 201));
  EXPECT_EQ(LastEvent().request(), 6u);
  EXPECT_EQ(LastEvent().position(), 2u);
}

TEST_F(LeaderTest, AStepThatDidNotCommitIsPlannedAgainWithTheSameContent) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan lost_first = MustPlan();
  leader().OnEpochChanged(4, {});
  const v1::StepPlan first = Step(200);
  EXPECT_EQ(first.epoch(), 4u);
  EXPECT_EQ(first.step(), 1u);
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.slices(0).SerializeAsString(), lost_first.slices(0).SerializeAsString());

  const v1::StepPlan lost_second = MustPlan();
  leader().OnEpochChanged(5, {});
  const v1::StepPlan second = Step(201);
  EXPECT_EQ(second.epoch(), 5u);
  EXPECT_EQ(second.step(), 1u);
  EXPECT_EQ(second.new_sequences_size(), 0);
  EXPECT_EQ(second.slices(0).SerializeAsString(), lost_second.slices(0).SerializeAsString());
  EXPECT_EQ(second.slices(0).token(), 200);
}

TEST_F(LeaderTest, OnlySequencesOfALostOwnerAreComputedAgain) {
  options_.limits.num_owners = 2;
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  const v1::StepPlan first = Step(200);
  ASSERT_EQ(first.slices(1).owner(), 1u);
  leader().OnEpochChanged(4, {1});
  const v1::StepPlan plan = Step(201);
  ASSERT_EQ(plan.slices_size(), 2);
  EXPECT_EQ(plan.slices(0).start(), 3u);
  ASSERT_EQ(plan.new_sequences_size(), 1);
  EXPECT_THAT(plan.new_sequences(0).generated_tokens(), ElementsAre(200));
  EXPECT_EQ(plan.slices(1).start(), 0u);
  EXPECT_EQ(plan.slices(1).count(), 4u);
  EXPECT_NE(plan.slices(1).sequence_id(), first.slices(1).sequence_id());
  // The lost owner has nothing to release.
  EXPECT_THAT(plan.released(), IsEmpty());
  for (const v1::TokenEvent& event : received_.back().events.events()) {
    EXPECT_EQ(event.position(), 1u);
  }
}

TEST_F(LeaderTest, IdsOfTwoLeadersDiffer) {
  MustSubmit(1, Request(5, 3, 10));
  const uint64_t first = MustPlan().slices(0).sequence_id();
  leader_ = *Leader::Create(options_, 4, this);
  MustSubmit(1, Request(5, 3, 10));
  EXPECT_NE(MustPlan().slices(0).sequence_id(), first);
}

TEST_F(LeaderTest, ResultsThatCannotBeChangeNothing) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan plan = MustPlan();
  const std::vector<v1::StepResult> good = Draw(plan, 200);
  const auto refuses = [&](auto change) {
    std::vector<v1::StepResult> results = good;
    change(results);
    EXPECT_EQ(leader().Commit(plan, results, now_).code(), absl::StatusCode::kInternal);
    EXPECT_TRUE(received_.empty());
  };
  refuses([](auto& results) { results.clear(); });
  refuses([](auto& results) { results[0].set_epoch(2); });
  refuses([](auto& results) { results[0].set_step(2); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_token(-1); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_token(kVocab); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_sampled(false); });
  refuses([](auto& results) { results[0].mutable_results(0)->set_sequence_id(1); });
  refuses([](auto& results) { *results[0].add_results() = results[0].results(0); });
  refuses([](auto& results) { results.push_back(results[0]); });
  v1::StepPlan other = plan;
  other.set_step(9);
  EXPECT_FALSE(leader().Commit(other, good, now_).ok());
  EXPECT_TRUE(leader().Commit(plan, good, now_).ok());
  EXPECT_FALSE(leader().Commit(plan, good, now_).ok());
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

TEST_F(LeaderTest, WaitEndsWithWorkOrAWake) {
  EXPECT_FALSE(leader().WaitForWork(absl::ZeroDuration()));
  leader().Wake();
  EXPECT_FALSE(leader().WaitForWork(absl::InfiniteDuration()));
  std::thread submitter([this] { MustSubmit(1, Request(5, 3, 10)); });
  EXPECT_TRUE(leader().WaitForWork(absl::InfiniteDuration()));
  submitter.join();
  const uint64_t num_calls = leader().num_engine_calls();
  leader().WaitForWork(absl::ZeroDuration());
  EXPECT_GT(leader().num_engine_calls(), num_calls);
}

// Under the thread sanitizer this checks the locks.
TEST_F(LeaderTest, ClientsAndTheEngineThreadRunAtOnce) {
  options_.max_queue = 1000;
  leader();
  std::vector<std::thread> clients;
  for (uint64_t client = 1; client <= 3; ++client) {
    clients.emplace_back([this, client] {
      for (uint64_t request = 0; request < 100; ++request) {
        MustSubmit(client, Request(request, 3, 4));
        if (request % 3 == 0) leader().Cancel(client, request);
        if (request % 50 == 49) leader().ClientGone(client);
        (void)leader().stats();
      }
      leader().ClientGone(client);
    });
  }
  std::atomic<bool> submitted = false;
  std::thread closer([&] {
    for (std::thread& client : clients) client.join();
    submitted = true;
    leader().Wake();
  });
  FakeOwners owners(options_.limits, kVocab);
  while (!submitted || leader().HasWork()) {
    leader().WaitForWork(absl::InfiniteDuration());
    const auto plan = leader().NextPlan(now_);
    if (!plan.has_value()) continue;
    const auto results = owners.Run(*plan);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE(leader().Commit(*plan, *results, now_).ok());
  }
  closer.join();
  EXPECT_FALSE(leader().HasWork());
}

}  // namespace
}  // namespace moe::engine
