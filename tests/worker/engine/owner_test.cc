// Tests worker/engine/owner.h over a decoder and layers that only write down what they are asked
// for: what a device draws, what the host draws, and steps of which this rank has no rows.
#include "worker/engine/owner.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "tests/worker/engine/fake_rank.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Want = model::LogitRequest::Want;

class OwnerTest : public testing::Test {
 protected:
  OwnerTest() : owner_({.rank = 1, .num_ranks = 3}, &decoder_, &blocks_, context_, nullptr) {}

  kernels::ThreadPool pool_{{.num_threads = 1, .spin_microseconds = 0}};
  const kernels::Context context_ = {.level = kernels::CpuLevel::kPlain, .pool = &pool_};
  FakeDecoder decoder_;
  KvBlockPool blocks_{8, 32};
  Owner owner_;
  FakeLayers alone_{/*collective=*/false};
  FakeLayers together_{/*collective=*/true};
};

TEST_F(OwnerTest, WhatTheDeviceMayDrawIsItsDraw) {
  v1::SamplingParams sampling = Sampling();
  sampling.set_temperature(0.7F);
  sampling.set_seed(3);
  sampling.set_num_logprobs(2);
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(decoder_.requests.size(), 1u);
  EXPECT_EQ(decoder_.requests[0].row, 2);
  EXPECT_EQ(decoder_.requests[0].want, Want::kDraw);
  EXPECT_EQ(decoder_.requests[0].temperature, 0.7F);
  EXPECT_EQ(decoder_.requests[0].num_top, 2);
  EXPECT_EQ(result->results(0).token(), 7);
  EXPECT_EQ(result->results(0).logprob(), -0.5F);
  EXPECT_EQ(result->results(0).top_logprobs_size(), 2);
}

TEST_F(OwnerTest, WhatTheHostHasToDrawItDrawsFromTheLogits) {
  v1::SamplingParams sampling = Sampling();
  (*sampling.mutable_logit_bias())[5] = 0.25F;
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(decoder_.requests[0].want, Want::kLogits);
  EXPECT_EQ(result->results(0).token(), 4);
}

TEST_F(OwnerTest, PromptLogprobsAreAskedForByToken) {
  v1::SamplingParams sampling = Sampling();
  sampling.set_num_prompt_logprobs(1);
  const auto result = owner_.RunStep(Plan(9, 1, sampling), &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(decoder_.requests.size(), 3u);
  EXPECT_EQ(decoder_.requests[0].want, Want::kLogprobs);
  EXPECT_EQ(decoder_.requests[0].token, 2);
  EXPECT_EQ(decoder_.requests[1].token, 3);
  EXPECT_EQ(result->results(0).prompt_logprobs_size(), 2);
  EXPECT_EQ(result->results(0).prompt_logprobs(1).logprob(), -0.5F);
  EXPECT_EQ(result->results(0).token(), 7);
}

TEST_F(OwnerTest, LogitsThatAreNotFiniteFailTheirSequenceAlone) {
  v1::SamplingParams by_host = Sampling();
  by_host.set_min_tokens(1);
  v1::StepPlan plan = Plan(9, 1, Sampling());
  AddSequence(10, 1, by_host, &plan);
  decoder_.finite = false;
  const auto result = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->results(0).error(), HasSubstr("not finite"));
  EXPECT_FALSE(result->results(0).sampled());
  EXPECT_EQ(result->results(1).error(), "");
  EXPECT_EQ(result->results(1).token(), 4);
}

TEST_F(OwnerTest, AStepWithoutOwnRowsRunsOnlyWhereEveryRankTakesPart) {
  const v1::StepPlan plan = Plan(9, 2, Sampling());
  const auto skipped = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(skipped.ok());
  EXPECT_EQ(skipped->results_size(), 0);
  EXPECT_TRUE(alone_.steps.empty());
  EXPECT_EQ(decoder_.num_finished, 0);

  const auto taken = owner_.RunStep(plan, &together_);
  ASSERT_TRUE(taken.ok());
  EXPECT_EQ(taken->results_size(), 0);
  EXPECT_THAT(together_.steps, ElementsAre(5));
  EXPECT_THAT(together_.num_rows, ElementsAre(0, 0, 3));
  EXPECT_TRUE(decoder_.begun.empty());
  EXPECT_EQ(decoder_.num_finished, 1);
}

TEST_F(OwnerTest, APlanWithoutRowsOfAnyRankRunsNoLayers) {
  v1::StepPlan plan;
  plan.set_step(6);
  plan.add_released(9);
  ASSERT_TRUE(owner_.RunStep(plan, &together_).ok());
  EXPECT_TRUE(together_.steps.empty());
}

TEST_F(OwnerTest, ErrorsOfTheDeviceKeepTheirCodes) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  decoder_.begin_status = absl::InvalidArgumentError("a step that can't be");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kInternal);
  decoder_.begin_status = absl::DataLossError("lost");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kDataLoss);
  decoder_.begin_status = absl::OkStatus();
  alone_.status = absl::AbortedError("over");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kAborted);
  alone_.status = absl::OkStatus();
  decoder_.finish_status = absl::DataLossError("lost");
  EXPECT_EQ(owner_.RunStep(plan, &alone_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(OwnerTest, AnOutlineTellsWhatThePlanHasForEachRank) {
  v1::StepPlan plan = Plan(9, 0, Sampling());
  AddSequence(10, 2, Sampling(), &plan);
  v1::SequenceSlice* decoding = plan.add_slices();
  decoding->set_sequence_id(11);
  decoding->set_owner(2);
  decoding->set_start(40);
  decoding->set_count(1);
  auto outline = OutlineOf(plan, 3, false);
  ASSERT_TRUE(outline.ok());
  EXPECT_EQ(outline->step, plan.step());
  EXPECT_THAT(outline->num_rows, ElementsAre(3, 0, 4));
  EXPECT_THAT(outline->num_keys, ElementsAre(3, 0, 44));
  EXPECT_EQ(outline->longest, 41);
  EXPECT_FALSE(outline->is_decode);
  outline = OutlineOf(plan, 3, true);
  ASSERT_TRUE(outline.ok());
  EXPECT_THAT(outline->num_rows, ElementsAre(7, 7, 7));
  EXPECT_THAT(outline->num_keys, ElementsAre(47, 47, 47));
  EXPECT_EQ(OutlineOf(plan, 2, false).status().code(), absl::StatusCode::kInternal);
  plan.mutable_slices()->DeleteSubrange(0, 2);
  outline = OutlineOf(plan, 3, false);
  ASSERT_TRUE(outline.ok());
  EXPECT_TRUE(outline->is_decode);
}

// ---- Steps that were planned before the draw that they follow was seen

v1::StepPlan RowAfter(const v1::StepPlan& plan, uint32_t start) {
  v1::StepPlan next;
  next.set_epoch(plan.epoch());
  next.set_step(plan.step() + 1);
  v1::SequenceSlice* slice = next.add_slices();
  *slice = plan.slices(0);
  slice->set_start(start);
  slice->set_count(1);
  return next;
}

TEST_F(OwnerTest, ARowThatFollowsADrawComputesWhatWasDrawn) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  ASSERT_TRUE(owner_.RunStep(plan, &alone_).ok());
  v1::StepPlan next = RowAfter(plan, 3);
  next.mutable_slices(0)->set_follows_draw(true);
  ASSERT_TRUE(owner_.RunStep(next, &alone_).ok());
  EXPECT_THAT(decoder_.begun, ElementsAre(7));
  // The leader knows it by now.
  v1::StepPlan later = RowAfter(next, 4);
  later.mutable_slices(0)->set_token(7);
  ASSERT_TRUE(owner_.RunStep(later, &alone_).ok());
  EXPECT_THAT(decoder_.begun, ElementsAre(7));
}

TEST_F(OwnerTest, ARowThatFollowsNoDrawIsRefused) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  ASSERT_TRUE(owner_.RunStep(plan, &alone_).ok());
  v1::StepPlan next = RowAfter(plan, 4);
  next.mutable_slices(0)->set_follows_draw(true);
  EXPECT_EQ(owner_.RunStep(next, &alone_).status().code(), absl::StatusCode::kInternal);
  next.mutable_slices(0)->set_start(3);
  ASSERT_TRUE(owner_.RunStep(next, &alone_).ok());
  EXPECT_EQ(owner_.RunStep(next, &alone_).status().code(), absl::StatusCode::kInternal) << "twice";
}

TEST_F(OwnerTest, AStepThatDidNotCommitIsRunAgainWithWhatWasKnownThen) {
  v1::StepPlan plan = Plan(9, 1, Sampling());
  ASSERT_TRUE(owner_.RunStep(plan, &alone_).ok());
  v1::StepPlan next = RowAfter(plan, 3);
  next.mutable_slices(0)->set_follows_draw(true);
  ASSERT_TRUE(owner_.RunStep(next, &alone_).ok());
  // The leader saw neither: the prompt's last chunk comes again, without its announcement.
  plan.clear_new_sequences();
  const auto again = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_THAT(decoder_.begun, ElementsAre(1, 2, 3));
  EXPECT_EQ(again->results(0).token(), 7);
}

TEST_F(OwnerTest, WhatCouldNotBeDrawnHarmsNoStepAhead) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  decoder_.finite = false;
  const auto failed = owner_.RunStep(plan, &alone_);
  ASSERT_TRUE(failed.ok());
  EXPECT_THAT(failed->results(0).error(), HasSubstr("not finite"));
  decoder_.finite = true;
  v1::StepPlan next = RowAfter(plan, 3);
  next.mutable_slices(0)->set_follows_draw(true);
  EXPECT_TRUE(owner_.RunStep(next, &alone_).ok());
}

TEST_F(OwnerTest, AStepThatWasStartedAndNotFinishedIsForgotten) {
  const v1::StepPlan plan = Plan(9, 1, Sampling());
  ASSERT_TRUE(owner_.Start(plan, &together_).ok());
  const v1::StepPlan none = Plan(8, 2, Sampling());
  ASSERT_TRUE(owner_.Start(none, &alone_).ok());
  const auto result = owner_.Finish();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->results_size(), 0);
  EXPECT_EQ(decoder_.num_finished, 0);
}

}  // namespace
}  // namespace moe::engine
