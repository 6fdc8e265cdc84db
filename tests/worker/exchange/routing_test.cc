#include "worker/exchange/routing.h"

#include <algorithm>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/exchange/fake_group.h"

namespace moe::exchange {
namespace {

TEST(RouterTest, SortsAnyRoutingLikeAComparisonSort) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const GroupShape shape =
        RandomShape(std::uniform_int_distribution<int>(1, 70)(random), 1, random);
    Router router(shape);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const int num_rows = std::uniform_int_distribution<int>(1, shape.max_rows)(random);
      std::vector<kernels::BFloat16> rows(static_cast<size_t>(shape.max_rows) * shape.hidden);
      const std::vector<int32_t> expert_ids = RandomRouting(shape, num_rows, rows.data(), random);

      using Key = std::tuple<int, int32_t, int32_t>;  // rank, expert, output row
      std::vector<Key> expected;
      for (int32_t i = 0; i < static_cast<int32_t>(expert_ids.size()); ++i) {
        expected.emplace_back(shape.rank_of_expert[expert_ids[i]], expert_ids[i], i);
      }
      std::sort(expected.begin(), expected.end());

      router.Sort(num_rows, expert_ids.data());
      std::vector<Key> found;
      for (int rank = 0; rank < shape.num_ranks; ++rank) {
        for (const RoutedRow& pair : router.pairs_of(rank)) {
          EXPECT_EQ(pair.x_row, pair.out_row / shape.top_k);
          found.emplace_back(rank, pair.expert, pair.out_row);
        }
      }
      EXPECT_EQ(found, expected);
    }
  }
}

TEST(RouterTest, CountsARowOnceForEachOtherRankThatNeedsIt) {
  GroupShape shape = SmallShape(3, 1);
  shape.num_experts = 4;
  shape.top_k = 3;
  shape.rank_of_expert = {0, 1, 1, 2};
  Router router(shape);
  const std::vector<int32_t> expert_ids = {0, 1, 2,   // ranks 0, 1
                                           1, 3, 2};  // ranks 1, 2
  router.Sort(2, expert_ids.data());
  EXPECT_EQ(router.num_rows_sent(0), 3);
  EXPECT_EQ(router.num_rows_sent(1), 2);
  EXPECT_EQ(router.num_rows_sent(2), 3);
}

}  // namespace
}  // namespace moe::exchange
