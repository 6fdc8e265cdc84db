// Tests worker/cuda/step_upload.h.
#include "worker/cuda/step_upload.h"

#include <cstring>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::cuda {
namespace {

using kernels::AttentionSlice;
using kernels::cuda::AttentionPlan;
using testing::ElementsAre;

template <typename T>
std::vector<T> Values(const T* from, int count) {
  return std::vector<T>(from, from + count);
}

AttentionPlan Plan(const std::vector<AttentionSlice>& slices, int max_partials) {
  return kernels::cuda::PlanAttention(
      slices, {.num_heads = 4, .num_kv_heads = 2, .num_sms = 132, .max_partials = max_partials});
}

TEST(PaddedCountTest, IsTheLeastOfPowersOfTwoAndThreeTimesThem) {
  for (const auto& [count, padded] : std::vector<std::pair<int, int>>{{0, 0},
                                                                      {1, 1},
                                                                      {2, 2},
                                                                      {3, 3},
                                                                      {4, 4},
                                                                      {5, 6},
                                                                      {6, 6},
                                                                      {7, 8},
                                                                      {8, 8},
                                                                      {9, 12},
                                                                      {13, 16},
                                                                      {17, 24},
                                                                      {25, 32},
                                                                      {48, 48},
                                                                      {49, 64},
                                                                      {65, 96},
                                                                      {193, 256}}) {
    EXPECT_EQ(PaddedCount(count), padded) << count;
  }
  for (int count = 1; count < 1000; ++count) {
    EXPECT_GE(PaddedCount(count), count);
    EXPECT_LE(PaddedCount(count) * 2, count * 3) << count;
  }
}

class StepUploadTest : public testing::Test {
 protected:
  // What is uploaded, and where its parts are.
  StepView Fill(const AttentionPlan& plan, const std::vector<int32_t>& tokens,
                const StepShape& shape) {
    const auto table_size = static_cast<int>(plan.block_table.size());
    bytes_.assign(StepBytes(shape, table_size), std::byte{0xab});
    Bump memory(bytes_.data());
    const StepView view = LayOutStep(shape, table_size, &memory);
    EXPECT_EQ(memory.num_bytes(), bytes_.size());
    FillStep(plan, tokens, shape, {.block = 50, .row = 99}, view);
    return view;
  }

  std::vector<std::byte> bytes_;
  const std::vector<int32_t> blocks_ = {7, 5, 3, 8, 9, 10, 11, 12, 13};
};

TEST_F(StepUploadTest, APlanGoesUpAsItIs) {
  const AttentionPlan plan = Plan({{0, 30, 4, blocks_.data()}, {4, 0, 1, blocks_.data() + 4}}, 0);
  const StepView view = Fill(plan, {1, 2, 3, 4, 5}, ShapeOf(plan));
  EXPECT_EQ(*view.num_chosen, 5);
  EXPECT_THAT(Values(view.tokens, 5), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(Values(view.positions, 5), ElementsAre(30, 31, 32, 33, 0));
  EXPECT_THAT(Values(view.slots, 5),
              ElementsAre(7 * 32 + 30, 7 * 32 + 31, 5 * 32, 5 * 32 + 1, 9 * 32));
  EXPECT_THAT(Values(view.block_table, 3), ElementsAre(7, 5, 9));
  EXPECT_EQ(view.slices[0].count, 4);
  EXPECT_EQ(view.slices[1].first_block, 2);
}

TEST_F(StepUploadTest, SpareRowsUnitsAndMergesTouchNothingReal) {
  // Long enough to be split: units and merges of both kinds.
  const AttentionPlan plan = Plan({{0, 279, 1, blocks_.data()},
                                   {1, 5, 1, blocks_.data()},
                                   {2, 7, 1, blocks_.data()},
                                   {3, 9, 1, blocks_.data()},
                                   {4, 2, 1, blocks_.data()}},
                                  100);
  ASSERT_EQ(plan.merges.size(), 1u);
  const StepShape real = ShapeOf(plan);
  StepShape shape = PaddedShape(real);
  shape.num_merges = 3;
  shape.num_wide = 2;
  ASSERT_EQ(real.num_rows, 5);
  ASSERT_EQ(shape.num_rows, 6);
  ASSERT_GT(shape.num_narrow, real.num_narrow);
  const StepView view = Fill(plan, {1, 2, 3, 4, 5}, shape);
  EXPECT_EQ(*view.num_chosen, 5);
  EXPECT_EQ(view.tokens[5], 0);
  EXPECT_EQ(view.positions[5], 0);
  EXPECT_EQ(view.slots[5], 50 * 32);  // in the spare block
  for (int i = real.num_narrow; i < shape.num_narrow; ++i) {
    EXPECT_EQ(view.slices[view.narrow[i].slice].count, 0);
    EXPECT_EQ(view.narrow[i].split, kernels::cuda::kAllSplits);
  }
  for (int i = 0; i < 2; ++i) EXPECT_EQ(view.slices[view.wide[i].slice].count, 0);
  for (int i = 1; i < 3; ++i) {
    EXPECT_EQ(view.merges[i].row, 99);
    EXPECT_EQ(view.merges[i].num_splits, 0);
  }
}

TEST_F(StepUploadTest, PlacesFollowFromTheShapeAlone) {
  const StepShape shape = {.num_rows = 4, .num_narrow = 8, .num_wide = 0, .num_merges = 4};
  std::vector<std::byte> memory(100000);
  Bump first(memory.data());
  Bump second(memory.data());
  const StepView a = LayOutStep(shape, 3, &first);
  const StepView b = LayOutStep(shape, 300, &second);
  EXPECT_EQ(std::memcmp(&a, &b, sizeof(a)), 0);
}

TEST_F(StepUploadTest, AStepWithoutRowsHasOnlyItsNumber) {
  const StepView view = Fill(AttentionPlan(), {}, {});
  EXPECT_EQ(*view.num_chosen, 0);
}

}  // namespace
}  // namespace moe::cuda
