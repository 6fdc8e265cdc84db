// Tests kernels/cuda/attention_plan.h.
#include "kernels/cuda/attention_plan.h"

#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace moe::kernels::cuda {
namespace {

struct Batch {
  explicit Batch(const std::vector<std::pair<int, int>>& starts_and_counts) {
    int first_row = 0;
    tables.reserve(starts_and_counts.size());
    for (const auto& [start, count] : starts_and_counts) {
      std::vector<int32_t>& table = tables.emplace_back((start + count + 31) / 32);
      std::iota(table.begin(), table.end(), static_cast<int32_t>(100 * tables.size()));
      slices.push_back({first_row, start, count, table.data()});
      first_row += count;
    }
  }
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSlice> slices;
};

// Every column of every slice has either one block for all its splits, or one for each of its
// splits and a merge that knows them.
void ExpectCovered(const AttentionPlan& plan, int heads_per_kv) {
  std::map<std::pair<int, int>, std::multiset<int>> splits_of_column;
  const auto add = [&](const std::vector<AttentionUnit>& units, int columns) {
    for (const AttentionUnit& unit : units) {
      const DeviceSlice& slice = plan.slices[unit.slice];
      ASSERT_EQ(unit.first_column % columns, 0);
      ASSERT_LT(unit.first_column, slice.count * heads_per_kv);
      for (int c = unit.first_column;
           c < std::min(unit.first_column + columns, slice.count * heads_per_kv); ++c) {
        const int last_split = (slice.start + c / heads_per_kv) / kSplitKeys;
        // A block of several columns also has splits that only its later ones reach.
        if (unit.split <= last_split) splits_of_column[{unit.slice, c}].insert(unit.split);
      }
    }
  };
  add(plan.narrow, kWarpColumns);
  add(plan.wide, kWarpColumns * kWideWarps);
  std::map<int, AttentionMerge> merges;
  for (const AttentionMerge& merge : plan.merges) {
    EXPECT_TRUE(merges.emplace(merge.row, merge).second) << "a row is merged twice";
  }
  std::set<int> partials;
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const DeviceSlice& slice = plan.slices[s];
    for (int p = 0; p < slice.count; ++p) {
      const int num_splits = (slice.start + p) / kSplitKeys + 1;
      const auto merge = merges.find(slice.first_row + p);
      std::multiset<int> wanted = {kAllSplits};
      if (merge != merges.end()) {
        wanted.clear();
        for (int split = 0; split < num_splits; ++split) {
          wanted.insert(split);
          const int partial = merge->second.first_partial + split * merge->second.stride;
          EXPECT_TRUE(partials.insert(partial).second) << "two results in one place";
          EXPECT_LT(partial, plan.num_partials);
        }
        EXPECT_EQ(merge->second.num_splits, num_splits);
      }
      for (int h = 0; h < heads_per_kv; ++h) {
        EXPECT_EQ((splits_of_column[{static_cast<int>(s), p * heads_per_kv + h}]), wanted);
      }
    }
  }
}

TEST(PlanAttentionTest, CoversEveryColumnOnce) {
  for (const int heads_per_kv : {1, 4, 5, 12}) {
    for (const int num_sms : {1, 8, 1000}) {
      for (const int max_partials : {0, 40, 100000}) {
        SCOPED_TRACE(std::to_string(heads_per_kv) + " heads, " + std::to_string(num_sms) + ", " +
                     std::to_string(max_partials));
        const Batch batch({{0, 1}, {127, 1}, {128, 1}, {500, 7}, {0, 300}, {1000, 65}, {3, 0}});
        const AttentionPlan plan = PlanAttention(batch.slices, {.num_heads = 2 * heads_per_kv,
                                                                .num_kv_heads = 2,
                                                                .num_sms = num_sms,
                                                                .max_partials = max_partials});
        EXPECT_LE(plan.num_partials, max_partials);
        ExpectCovered(plan, heads_per_kv);
      }
    }
  }
}

TEST(PlanAttentionTest, FewLongSequencesAreSplitAndManyAreNot) {
  const std::vector<std::pair<int, int>> one = {{1023, 1}};
  const AttentionPlanOptions options = {
      .num_heads = 16, .num_kv_heads = 16, .num_sms = 132, .max_partials = 10000};
  const AttentionPlan alone = PlanAttention(Batch(one).slices, options);
  EXPECT_EQ(alone.narrow.size(), 8u);
  EXPECT_EQ(alone.merges.size(), 1u);
  const std::vector<std::pair<int, int>> many(200, {1023, 1});
  const AttentionPlan full = PlanAttention(Batch(many).slices, options);
  EXPECT_EQ(full.narrow.size(), 200u);
  EXPECT_TRUE(full.merges.empty());
}

TEST(PlanAttentionTest, ADecodeStepHasNoMoreUnitsThanCanBeToldFromItsSums) {
  std::mt19937 random(1);
  for (const int heads_per_kv : {1, 8, 16, 80}) {
    for (const int max_partials : {0, 7, 10000}) {
      for (const int num_rows : {1, 2, 9, 60}) {
        for (const int most_keys : {1, kSplitKeys, kSplitKeys + 1, 9 * kSplitKeys}) {
          std::vector<std::pair<int, int>> rows;
          int64_t num_keys = 0;
          for (int row = 0; row < num_rows; ++row) {
            const int keys = row == 0 ? most_keys : 1 + static_cast<int>(random() % most_keys);
            rows.emplace_back(keys - 1, 1);
            num_keys += keys;
          }
          const AttentionPlanOptions options = {.num_heads = 2 * heads_per_kv,
                                                .num_kv_heads = 2,
                                                .num_sms = 10,
                                                .max_partials = max_partials};
          const AttentionPlan plan = PlanAttention(Batch(rows).slices, options);
          const DecodeUnits most = MostDecodeUnits(num_rows, num_keys, most_keys, options);
          EXPECT_LE(static_cast<int>(plan.narrow.size()), most.num_narrow);
          EXPECT_LE(static_cast<int>(plan.wide.size()), most.num_wide);
          EXPECT_LE(static_cast<int>(plan.merges.size()), most.num_merges);
          if (most_keys <= kSplitKeys) {
            EXPECT_EQ(plan.narrow.size() + plan.wide.size(),
                      static_cast<size_t>(most.num_narrow + most.num_wide));
            EXPECT_EQ(most.num_merges, 0);
          }
        }
      }
    }
  }
}

TEST(PlanAttentionTest, RowsHaveTheirSlotsAndPositions) {
  const Batch batch({{31, 3}, {0, 1}});
  const AttentionPlan plan = PlanAttention(
      batch.slices, {.num_heads = 1, .num_kv_heads = 1, .num_sms = 1, .max_partials = 0});
  EXPECT_EQ(plan.positions, (std::vector<int32_t>{31, 32, 33, 0}));
  EXPECT_EQ(plan.slots, (std::vector<int32_t>{100 * 32 + 31, 101 * 32, 101 * 32 + 1, 200 * 32}));
  EXPECT_EQ(plan.block_table, (std::vector<int32_t>{100, 101, 200}));
  EXPECT_EQ(plan.slices[1].first_block, 2);
}

}  // namespace
}  // namespace moe::kernels::cuda
