#include "worker/exchange/nccl/step_pattern.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::exchange {
namespace {

using ::testing::HasSubstr;

// OLMoE: 64 experts, 8 of them for each row of 2048.
GroupShape Olmoe(int num_ranks, int num_owners, bool replicated = false) {
  GroupShape shape{.num_ranks = num_ranks,
                   .num_attention_ranks = num_owners,
                   .replicated = replicated,
                   .num_layers = 16,
                   .num_experts = 64,
                   .hidden = 2048,
                   .top_k = 8,
                   .max_rows = 4096,
                   .rank_of_expert = {}};
  for (int e = 0; e < 64; ++e) shape.rank_of_expert.push_back(e * num_ranks / 64);
  return shape;
}

std::vector<int> Rows(const GroupShape& shape, int rows) {
  std::vector<int> num_rows(shape.num_ranks);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    if (shape.replicated || rank < shape.num_attention_ranks) num_rows[rank] = rows;
  }
  return num_rows;
}

struct Case {
  std::string name;
  GroupShape shape;
  int rows;
  int bucket;
  int max_slot_rows;
  bool spans_nodes;
  Pattern pattern;
};

TEST(StepPatternTest, SmallStepsTravelInSlotsAndLargeOnesInExactNumbers) {
  for (const Case& c : std::vector<Case>{
           {"decode at EP64", Olmoe(64, 64), 1, 0, 256, true, Pattern::kSlots},
           {"15 rows of each at EP64 over the network", Olmoe(64, 64), 15, 0, 256, true,
            Pattern::kAllToAll},
           {"15 rows of each at EP64 within a node", Olmoe(64, 64), 15, 0, 256, false,
            Pattern::kSlots},
           {"a bucket at EP64", Olmoe(64, 64), 3, 4, 256, true, Pattern::kSlots},
           {"a prompt at EP64", Olmoe(64, 64), 4096, 0, 256, true, Pattern::kAllToAll},
           {"more rows than there are slots for", Olmoe(8, 8), 257, 0, 256, false,
            Pattern::kAllToAll},
           {"one owner at EP64", Olmoe(64, 1), 8, 0, 256, true, Pattern::kSlots},
           {"a rank alone", Olmoe(1, 1), 4096, 0, 256, true, Pattern::kSlots},
           {"a rank alone, a bucket", Olmoe(1, 1), 200, 256, 256, true, Pattern::kSlots},
           {"replicated decode", Olmoe(64, 1, true), 1, 0, 256, true, Pattern::kReplicatedSlots},
           {"replicated, many rows", Olmoe(64, 1, true), 200, 0, 256, true,
            Pattern::kReplicatedExact},
           {"replicated, a bucket", Olmoe(64, 1, true), 2, 3, 256, true, Pattern::kReplicatedSlots},
           {"replicated, more rows than there are slots for", Olmoe(2, 1, true), 257, false, 256,
            true, Pattern::kReplicatedExact}}) {
    PatternThresholds thresholds;
    thresholds.spans_nodes = c.spans_nodes;
    const std::vector<int> num_rows = Rows(c.shape, c.rows);
    const auto chosen = ChoosePattern(
        c.shape, {.num_rows = num_rows, .bucket = c.bucket, .max_slot_rows = c.max_slot_rows},
        thresholds);
    ASSERT_TRUE(chosen.ok()) << c.name << ": " << chosen.status();
    EXPECT_EQ(PatternName(chosen->pattern), PatternName(c.pattern)) << c.name;
    EXPECT_EQ(chosen->stride, std::max(c.rows, c.bucket)) << c.name;
  }
}

TEST(StepPatternTest, ThePatternChangesWhereTheSurplusCrossesTheThreshold) {
  const GroupShape shape = Olmoe(64, 64);
  PatternThresholds thresholds;
  Pattern before = Pattern::kSlots;
  int num_changes = 0;
  for (int rows = 1; rows <= 256; ++rows) {
    const std::vector<int> num_rows = Rows(shape, rows);
    const auto chosen =
        ChoosePattern(shape, {.num_rows = num_rows, .max_slot_rows = 256}, thresholds);
    ASSERT_TRUE(chosen.ok());
    const double surplus = BytesInPattern(shape, Pattern::kSlots, rows) -
                           BytesInPattern(shape, Pattern::kAllToAll, rows);
    EXPECT_EQ(chosen->pattern == Pattern::kAllToAll,
              surplus > static_cast<double>(thresholds.surplus_bytes_over_network));
    if (chosen->pattern != before) ++num_changes;
    before = chosen->pattern;
  }
  EXPECT_EQ(num_changes, 1);
  EXPECT_THAT(thresholds.source, HasSubstr("not measured"));
}

TEST(StepPatternTest, TheOwnerWithTheMostRowsSetsTheStride) {
  const GroupShape shape = Olmoe(4, 3);
  const std::vector<int> num_rows = {0, 7, 2, 0};
  const auto chosen = ChoosePattern(shape, {.num_rows = num_rows, .max_slot_rows = 64}, {});
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->stride, 7);
}

TEST(StepPatternTest, BytesAreThoseThatWereDerived) {
  const GroupShape shape = Olmoe(64, 64);
  const double row = 4096;
  EXPECT_EQ(BytesInPattern(shape, Pattern::kSlots, 3), row * 3 * (63 + 63));
  // 8 of 64 experts on 64 ranks: 8 ranks.
  EXPECT_NEAR(BytesInPattern(shape, Pattern::kAllToAll, 3), row * 3 * 16 * 63 / 64, 1);
  EXPECT_EQ(BytesInPattern(Olmoe(8, 8), Pattern::kSlots, 3), row * 3 * (7 + 7 * 8));
  EXPECT_EQ(BytesInPattern(Olmoe(64, 1, true), Pattern::kReplicatedSlots, 3), row * 3 * 63);
  EXPECT_NEAR(BytesInPattern(Olmoe(64, 1, true), Pattern::kReplicatedExact, 3),
              row * 3 * 8 * 63 / 64, 1);
}

TEST(StepPatternTest, RowsThatCantBeAreRefusedInWords) {
  struct Bad {
    GroupShape shape;
    std::vector<int> num_rows;
    int bucket;
    std::string words;
  };
  for (const Bad& bad : std::vector<Bad>{
           {Olmoe(2, 2), {1}, 0, "rows of 1 ranks in a group of 2"},
           {Olmoe(2, 2), {1, -1}, 0, "rank 1 has -1 rows"},
           {Olmoe(2, 2), {4097, 1}, 0, "rank 0 has 4097 rows"},
           {Olmoe(2, 1), {1, 1}, 0, "rank 1 has rows and owns none"},
           {Olmoe(2, 2), {0, 0}, 0, "a step without rows"},
           {Olmoe(2, 1, true), {3, 2}, 0, "rank 1 has 2 rows where rank 0 has 3"},
           {Olmoe(2, 2), {5, 1}, 4, "a bucket of 4 rows for a step of 5 rows of one rank"},
           {Olmoe(2, 2), {5, 1}, 65, "there are slots for 64"},
           {Olmoe(64, 1, true), std::vector<int>(64, 40), 64,
            "a bucket of 64 rows for a step of 40"}}) {
    const auto chosen = ChoosePattern(
        bad.shape, {.num_rows = bad.num_rows, .bucket = bad.bucket, .max_slot_rows = 64}, {});
    EXPECT_EQ(chosen.status().code(), absl::StatusCode::kInvalidArgument) << bad.words;
    EXPECT_THAT(chosen.status().ToString(), HasSubstr(bad.words));
  }
}

TEST(StepPatternTest, SlotsAreAsManyAsARowCanUseAtARank) {
  GroupShape shape = Olmoe(4, 4);
  shape.num_experts = 6;
  shape.top_k = 3;
  shape.rank_of_expert = {0, 0, 0, 0, 1, 3};
  EXPECT_EQ(SlotsOfRanks(shape), (std::vector<int32_t>{3, 1, 0, 1}));
  shape.replicated = true;
  EXPECT_EQ(SlotsOfRanks(shape), (std::vector<int32_t>{3, 3, 3, 3}));
}

}  // namespace
}  // namespace moe::exchange
