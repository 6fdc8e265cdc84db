#include "controller/coordinator/expert_load.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::coordinator {
namespace {

using ::testing::ElementsAre;

// 3 experts in 2 slots: slot 0 holds 0 and 1, slot 1 holds 2; 2 layers.
class ExpertLoadTest : public ::testing::Test {
 protected:
  ExpertLoad load_{*PlaceInBlocks(3, 2), 2};
};

TEST_F(ExpertLoadTest, CountersLandAtTheirLayerAndExpert) {
  ASSERT_TRUE(load_.Update(0, "a", {1, 2, 3, 4}).ok());
  ASSERT_TRUE(load_.Update(1, "b", {5, 6}).ok());
  EXPECT_THAT(load_.totals(), ElementsAre(1, 2, 5, 3, 4, 6));
}

TEST_F(ExpertLoadTest, ARepeatedReportCountsOnce) {
  ASSERT_TRUE(load_.Update(1, "b", {5, 6}).ok());
  ASSERT_TRUE(load_.Update(1, "b", {5, 7}).ok());
  EXPECT_THAT(load_.totals(), ElementsAre(0, 0, 5, 0, 0, 7));
}

TEST_F(ExpertLoadTest, WhatAnEndedProcessCountedStays) {
  ASSERT_TRUE(load_.Update(1, "b", {5, 6}).ok());
  ASSERT_TRUE(load_.Update(1, "c", {1, 10}).ok());
  ASSERT_TRUE(load_.Update(1, "c", {2, 10}).ok());
  EXPECT_THAT(load_.totals(), ElementsAre(0, 0, 7, 0, 0, 16));
}

TEST_F(ExpertLoadTest, AReportOfTheWrongSizeChangesNothing) {
  EXPECT_EQ(load_.Update(0, "a", {1, 2, 3}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(load_.Update(2, "a", {1, 2}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(load_.Update(-1, "a", {1, 2}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(load_.totals(), ElementsAre(0, 0, 0, 0, 0, 0));
}

}  // namespace
}  // namespace moe::coordinator
