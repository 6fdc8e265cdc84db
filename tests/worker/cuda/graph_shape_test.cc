// Tests worker/cuda/graph_shape.h.
#include "worker/cuda/graph_shape.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/model/checkpoint_writer.h"

namespace moe::cuda {
namespace {

using model::StepOutline;

// 16 heads, each with keys and values of its own.
model::ModelConfig Olmoe() {
  model::ModelConfig config = model::TinyConfig();
  config.num_heads = 16;
  config.num_kv_heads = 16;
  return config;
}

RankSizes Sizes(int max_rows) { return SizesFor(Olmoe(), max_rows, /*max_positions=*/4096, 1); }

TEST(GraphShapeTest, ItIsThatOfTheRankWithTheMost) {
  const StepOutline outline = {.step = 1,
                               .num_rows = {1, 5, 0},
                               .num_keys = {1000, 5 * 60, 0},
                               .longest = 1000,
                               .is_decode = true};
  const auto shape = GraphShape(outline, Olmoe(), Sizes(512));
  ASSERT_TRUE(shape.has_value());
  // 5 rows; 1 row of 7 splits and one more, or 5 rows of 2 splits at most and 7 in all.
  EXPECT_EQ(*shape, (StepShape{.num_rows = 6, .num_narrow = 8, .num_wide = 0, .num_merges = 6}));
}

TEST(GraphShapeTest, ShortSequencesHaveNothingToMerge) {
  const StepOutline outline = {
      .step = 1, .num_rows = {3, 2}, .num_keys = {3 * 128, 2}, .longest = 128, .is_decode = true};
  const auto shape = GraphShape(outline, Olmoe(), Sizes(512));
  ASSERT_TRUE(shape.has_value());
  EXPECT_EQ(*shape, (StepShape{.num_rows = 3, .num_narrow = 3, .num_wide = 0, .num_merges = 0}));
}

TEST(GraphShapeTest, WhatARankHasMoreThanOthersDecidesWhoeverAsks) {
  StepOutline outline = {.step = 1,
                         .num_rows = {2, 4, 4},
                         .num_keys = {4000, 200, 300},
                         .longest = 2000,
                         .is_decode = true};
  const auto shape = GraphShape(outline, Olmoe(), Sizes(512));
  outline.num_rows = {4, 2, 4};
  outline.num_keys = {300, 4000, 200};
  EXPECT_EQ(GraphShape(outline, Olmoe(), Sizes(512)), shape);
}

TEST(GraphShapeTest, PromptsEmptyAndLargeStepsAreLaunchedOneByOne) {
  struct Case {
    std::string name;
    int rows;
    bool is_decode;
    int max_rows;
    bool expected;
  };
  for (const Case& c : std::vector<Case>{{"a decode step", 200, true, 512, true},
                                         {"with a prompt", 200, false, 512, false},
                                         {"of no rows", 0, true, 512, false},
                                         {"of the most rows", kMaxGraphRows, true, 512, true},
                                         {"of more", kMaxGraphRows + 1, true, 512, false},
                                         {"padded beyond the room", 9, true, 10, false}}) {
    const StepOutline outline = {.step = 1,
                                 .num_rows = {c.rows},
                                 .num_keys = {int64_t{c.rows} * 10},
                                 .longest = 10,
                                 .is_decode = c.is_decode};
    EXPECT_EQ(GraphShape(outline, Olmoe(), Sizes(c.max_rows)).has_value(), c.expected) << c.name;
  }
}

}  // namespace
}  // namespace moe::cuda
