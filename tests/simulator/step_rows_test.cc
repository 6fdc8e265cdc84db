#include "simulator/step_rows.h"

#include "gtest/gtest.h"

namespace moe::simulator {
namespace {

void Add(engine::v1::StepPlan* plan, uint32_t owner, uint32_t start, uint32_t count, bool decodes,
         bool sample) {
  engine::v1::SequenceSlice* slice = plan->add_slices();
  slice->set_owner(owner);
  slice->set_start(start);
  slice->set_count(count);
  slice->set_sample(sample);
  if (decodes) slice->set_token(0);
}

TEST(StepRowsTest, DecodingRowsAreCountedForEachOwner) {
  engine::v1::StepPlan plan;
  Add(&plan, 0, 99, 1, true, true);
  Add(&plan, 1, 199, 1, true, true);
  Add(&plan, 1, 9, 1, true, true);
  const planner::StepRows rows = StepRowCounter(2).Count(plan);
  EXPECT_EQ(rows.rows, 3);
  EXPECT_EQ(rows.owners, 2);
  EXPECT_EQ(rows.rows_per_owner, 2);
  EXPECT_EQ(rows.kv_reads, 210);
  EXPECT_EQ(rows.context, 105);
  EXPECT_EQ(rows.logit_rows, 2);
  EXPECT_FALSE(rows.prefill);
}

TEST(StepRowsTest, AChunkOfAPromptReadsItsKeysOnceAndAttendsToThoseBeforeEachRow) {
  engine::v1::StepPlan plan;
  Add(&plan, 0, 100, 4, false, false);
  const planner::StepRows rows = StepRowCounter(1).Count(plan);
  EXPECT_EQ(rows.rows, 4);
  EXPECT_EQ(rows.kv_reads, 104);
  EXPECT_EQ(rows.context, (101 + 102 + 103 + 104) / 4.0);
  EXPECT_EQ(rows.logit_rows, 0);
  EXPECT_TRUE(rows.prefill);
}

TEST(StepRowsTest, ACounterForgetsTheStepBefore) {
  StepRowCounter counter(2);
  engine::v1::StepPlan large;
  Add(&large, 1, 0, 100, false, true);
  counter.Count(large);
  engine::v1::StepPlan small;
  Add(&small, 0, 5, 1, true, true);
  const planner::StepRows rows = counter.Count(small);
  EXPECT_EQ(rows.owners, 1);
  EXPECT_EQ(rows.rows_per_owner, 1);
  EXPECT_EQ(rows.kv_reads, 6);
  EXPECT_FALSE(rows.prefill);
}

}  // namespace
}  // namespace moe::simulator
