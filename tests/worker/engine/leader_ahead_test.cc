// Plans that are made before the results of the step before: Leader::PlanAhead.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/engine/leader_fixture.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class LeaderAheadTest : public LeaderFixture {
 protected:
  v1::StepPlan MustPlanAhead() {
    const auto plan = leader().PlanAhead();
    EXPECT_TRUE(plan.has_value());
    return plan.value_or(v1::StepPlan());
  }
  void MustCommit(const v1::StepPlan& plan, int32_t token) {
    const absl::Status status = leader().Commit(plan, Draw(plan, token), now_);
    EXPECT_TRUE(status.ok()) << status;
  }
};

TEST_F(LeaderAheadTest, ARowFollowsEachDrawThatNobodyHasSeen) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan first = MustPlan();
  const v1::StepPlan second = MustPlanAhead();
  EXPECT_EQ(second.epoch(), first.epoch());
  EXPECT_EQ(second.step(), first.step() + 1);
  EXPECT_EQ(second.new_sequences_size(), 0);
  ASSERT_EQ(second.slices_size(), 1);
  const v1::SequenceSlice& slice = second.slices(0);
  EXPECT_EQ(slice.sequence_id(), first.slices(0).sequence_id());
  EXPECT_EQ(slice.start(), 3u);
  EXPECT_EQ(slice.count(), 1u);
  EXPECT_TRUE(slice.sample());
  EXPECT_TRUE(slice.follows_draw());
  EXPECT_FALSE(slice.has_token());

  MustCommit(first, 200);
  EXPECT_EQ(LastEvent().token(), 200);
  const v1::StepPlan third = MustPlanAhead();
  EXPECT_EQ(third.slices(0).start(), 4u);
  EXPECT_TRUE(third.slices(0).follows_draw());
  MustCommit(second, 201);
  EXPECT_EQ(LastEvent().token(), 201);
  EXPECT_EQ(LastEvent().position(), 1u);
  MustCommit(third, 202);

  const v1::StepPlan fourth = MustPlan();
  EXPECT_EQ(fourth.slices(0).token(), 202);
  EXPECT_FALSE(fourth.slices(0).follows_draw());
  EXPECT_EQ(leader().stats().num_prompt_tokens(), 3u);
  EXPECT_EQ(leader().stats().num_generated_tokens(), 3u);
}

TEST_F(LeaderAheadTest, NothingIsPlannedAheadOfWhatMayChangeIt) {
  struct Case {
    const char* sentence;
    std::function<void()> prepare;
  };
  const std::vector<Case> cases = {
      {"no step is open", [] {}},
      {"two are",
       [this] {
         MustSubmit(1, Request(5, 3, 10));
         MustPlan();
         MustPlanAhead();
       }},
      {"a prompt is computed in chunks",
       [this] {
         MustSubmit(1, Request(5, 20, 5));
         MustPlan();
       }},
      {"one sequence is in its prompt, another draws",
       [this] {
         MustSubmit(1, Request(5, 3, 5));
         MustSubmit(1, Request(6, 20, 5));
         MustPlan();
       }},
      {"a request has come",
       [this] {
         MustSubmit(1, Request(5, 3, 10));
         MustPlan();
         MustSubmit(1, Request(6, 3, 10));
       }},
      {"a request is cancelled",
       [this] {
         MustSubmit(1, Request(5, 3, 10));
         MustPlan();
         leader().Cancel(1, 5);
       }},
      {"a client is gone",
       [this] {
         MustSubmit(1, Request(5, 3, 10));
         MustPlan();
         leader().ClientGone(1);
       }},
      {"a request waits for KV blocks",
       [this] {
         MustSubmit(1, Request(5, 3, 10));
         MustSubmit(1, Request(6, 28, 2));
         MustPlan();
       }},
      {"the KV blocks run out",
       [this] {
         MustSubmit(1, Request(5, 12, 8));
         MustSubmit(1, Request(6, 3, 10));
         Step(200);
         MustPlan();  // rows 12 and 3; the next ones are 13 and 4, of a second block
       }},
      {"every sequence ends by its length",
       [this] {
         MustSubmit(1, Request(5, 3, 1));
         MustPlan();
       }},
      {"every sequence ends by the context",
       [this] {
         MustSubmit(1, Request(5, 28, 10));
         Step(200);
         Step(200);
         MustPlan();
       }},
      {"one ends by its length while another waits for its place",
       [this] {
         options_.limits.max_sequences = 2;
         MustSubmit(1, Request(5, 3, 2));
         MustSubmit(1, Request(6, 3, 10));
         MustSubmit(1, Request(7, 3, 10));
         Step(200);
         MustPlan();
       }},
  };
  const LeaderOptions options = options_;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    options_ = options;
    if (std::string(c.sentence) == "the KV blocks run out") options_.limits.kv_blocks_per_owner = 5;
    leader_ = nullptr;
    c.prepare();
    EXPECT_EQ(leader().PlanAhead(), std::nullopt);
  }
}

TEST_F(LeaderAheadTest, WhoWaitsWhereNobodyCanJoinHoldsNothingUp) {
  options_.limits.max_sequences = 2;
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(1, Request(6, 3, 10));
  MustSubmit(1, Request(7, 3, 10));
  const v1::StepPlan plan = MustPlan();
  ASSERT_EQ(plan.slices_size(), 2);
  EXPECT_EQ(MustPlanAhead().slices_size(), 2);
}

TEST_F(LeaderAheadTest, ASequenceThatEndsByItsLengthHasNoRowMore) {
  MustSubmit(1, Request(5, 3, 1));
  MustSubmit(1, Request(6, 3, 10));
  const v1::StepPlan first = MustPlan();
  ASSERT_EQ(first.slices_size(), 2);
  const v1::StepPlan second = MustPlanAhead();
  ASSERT_EQ(second.slices_size(), 1);
  EXPECT_EQ(second.slices(0).sequence_id(), first.slices(1).sequence_id());
}

TEST_F(LeaderAheadTest, WhatIsComputedAfterAnEndIsLeftOut) {
  MustSubmit(1, Request(5, 3, 10));
  MustSubmit(2, Request(6, 3, 10));
  const v1::StepPlan first = MustPlan();
  const v1::StepPlan second = MustPlanAhead();
  auto results = Draw(first, 200);
  results[0].mutable_results(0)->set_token(kEnd);
  ASSERT_TRUE(leader().Commit(first, results, now_).ok());
  ASSERT_EQ(received_.size(), 2u);
  EXPECT_EQ(received_[0].events.events(0).finish(), v1::TokenEvent::STOP);
  // The same number again is another request.
  MustSubmit(1, Request(5, 3, 10));

  received_.clear();
  MustCommit(second, 201);
  ASSERT_EQ(received_.size(), 1u);
  EXPECT_EQ(received_[0].client, 2u);
  EXPECT_EQ(leader().stats().num_generated_tokens(), 3u);
  const v1::StepPlan third = MustPlan();
  EXPECT_THAT(third.released(), ElementsAre(first.slices(0).sequence_id()));
  EXPECT_EQ(third.slices_size(), 2);
  MustCommit(third, 202);
  EXPECT_THAT(MustPlan().released(), IsEmpty());
}

TEST_F(LeaderAheadTest, AReleaseGoesWithThePlanAheadAndIsNotForgotten) {
  MustSubmit(1, Request(5, 3, 1));
  MustSubmit(1, Request(6, 3, 10));
  const v1::StepPlan first = MustPlan();
  const uint64_t ended = first.slices(0).sequence_id();
  const v1::StepPlan second = MustPlanAhead();
  MustCommit(first, 200);
  const v1::StepPlan third = MustPlanAhead();
  EXPECT_THAT(third.released(), ElementsAre(ended));
  MustCommit(second, 200);
  const v1::StepPlan fourth = MustPlanAhead();
  EXPECT_THAT(fourth.released(), ElementsAre(ended)) << "the third has not committed";
  MustCommit(third, 200);
  MustCommit(fourth, 200);
  EXPECT_THAT(MustPlan().released(), IsEmpty());
}

TEST_F(LeaderAheadTest, PlansAreCommittedInTheirOrder) {
  MustSubmit(1, Request(5, 3, 10));
  const v1::StepPlan first = MustPlan();
  const v1::StepPlan second = MustPlanAhead();
  EXPECT_EQ(leader().Commit(second, Draw(second, 200), now_).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(leader().Commit(first, Draw(second, 200), now_).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(received_.empty());
  MustCommit(first, 200);
  EXPECT_EQ(leader().Commit(first, Draw(first, 200), now_).code(), absl::StatusCode::kInternal);
  MustCommit(second, 201);
}

TEST_F(LeaderAheadTest, TheEndOfAnEpochDropsBothPlans) {
  MustSubmit(1, Request(5, 3, 10));
  Step(200);
  const v1::StepPlan open = MustPlan();
  const v1::StepPlan ahead = MustPlanAhead();
  leader().OnEpochChanged(4, {});
  EXPECT_EQ(leader().Commit(open, Draw(open, 201), now_).code(), absl::StatusCode::kInternal);
  const v1::StepPlan again = MustPlan();
  EXPECT_EQ(again.epoch(), 4u);
  EXPECT_EQ(again.step(), 1u);
  EXPECT_EQ(again.slices(0).start(), open.slices(0).start());
  EXPECT_EQ(again.slices(0).token(), 200);
  EXPECT_EQ(again.new_sequences_size(), 0);
}

}  // namespace
}  // namespace moe::engine
