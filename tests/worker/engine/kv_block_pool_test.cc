#include "worker/engine/kv_block_pool.h"

#include <map>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<uint64_t> Hashes(const KvBlockPool& pool, uint64_t id) {
  const auto hashes = pool.block_hashes(id);
  return {hashes.begin(), hashes.end()};
}
std::vector<int32_t> Blocks(const KvBlockPool& pool, uint64_t id) {
  const auto blocks = pool.block_table(id);
  return {blocks.begin(), blocks.end()};
}

TEST(KvBlockPoolTest, ReservesBlocksAsTokensGrow) {
  KvBlockPool pool(/*num_blocks=*/4, /*block_tokens=*/2);
  ASSERT_TRUE(pool.Reserve(7, 1).ok());
  EXPECT_THAT(Blocks(pool, 7), ElementsAre(0));
  ASSERT_TRUE(pool.Reserve(7, 2).ok());
  EXPECT_EQ(pool.num_free(), 3);
  ASSERT_TRUE(pool.Reserve(7, 5).ok());
  EXPECT_THAT(Blocks(pool, 7), ElementsAre(0, 1, 2));
}

TEST(KvBlockPoolTest, NeverShrinks) {
  KvBlockPool pool(4, 2);
  ASSERT_TRUE(pool.Reserve(7, 6).ok());
  ASSERT_TRUE(pool.Reserve(7, 1).ok());
  EXPECT_EQ(Blocks(pool, 7).size(), 3u);
}

TEST(KvBlockPoolTest, RefusesWhenFullAndChangesNothing) {
  KvBlockPool pool(4, 2);
  ASSERT_TRUE(pool.Reserve(1, 6).ok());
  EXPECT_EQ(pool.Reserve(2, 3).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.Reserve(1, 9).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_THAT(Blocks(pool, 2), IsEmpty());
  EXPECT_THAT(Blocks(pool, 1), ElementsAre(0, 1, 2));
}

TEST(KvBlockPoolTest, ReleaseGivesAllBlocksBackAndTheWarmestGoesOutFirst) {
  KvBlockPool pool(4, 2);
  ASSERT_TRUE(pool.Reserve(1, 4).ok());
  ASSERT_TRUE(pool.Reserve(2, 4).ok());
  pool.Release(1);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_THAT(Blocks(pool, 1), IsEmpty());
  ASSERT_TRUE(pool.Reserve(3, 4).ok());
  EXPECT_THAT(Blocks(pool, 3), ElementsAre(0, 1));
  pool.Release(99);
  pool.ReleaseAll();
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(KvBlockPoolTest, HashesFullBlocksOnly) {
  KvBlockPool pool(4, 2);
  ASSERT_TRUE(pool.Reserve(1, 5).ok());
  pool.Commit(1, {10, 11, 12});
  EXPECT_EQ(Hashes(pool, 1).size(), 1u);
  pool.Commit(1, {10, 11, 12, 13, 14});
  EXPECT_EQ(Hashes(pool, 1).size(), 2u);
}

TEST(KvBlockPoolTest, EqualPrefixesHaveEqualHashesHoweverTheyWereCommitted) {
  KvBlockPool pool(8, 2);
  ASSERT_TRUE(pool.Reserve(1, 4).ok());
  ASSERT_TRUE(pool.Reserve(2, 6).ok());
  pool.Commit(1, {10, 11, 12, 13});
  pool.Commit(2, {10});
  pool.Commit(2, {10, 11, 12});
  pool.Commit(2, {10, 11, 12, 13, 14, 15});
  EXPECT_EQ(Hashes(pool, 1)[0], Hashes(pool, 2)[0]);
  EXPECT_EQ(Hashes(pool, 1)[1], Hashes(pool, 2)[1]);
}

TEST(KvBlockPoolTest, AHashCoversEverythingBeforeIt) {
  KvBlockPool pool(8, 2);
  ASSERT_TRUE(pool.Reserve(1, 4).ok());
  ASSERT_TRUE(pool.Reserve(2, 4).ok());
  ASSERT_TRUE(pool.Reserve(3, 4).ok());
  pool.Commit(1, {10, 11, 12, 13});
  pool.Commit(2, {99, 11, 12, 13});
  pool.Commit(3, {11, 10, 12, 13});
  EXPECT_NE(Hashes(pool, 1)[1], Hashes(pool, 2)[1]);
  EXPECT_NE(Hashes(pool, 1)[0], Hashes(pool, 3)[0]);
  // Zeros count: a longer run of them is another prefix.
  EXPECT_NE(Hashes(pool, 1)[0], Hashes(pool, 1)[1]);
}

TEST(KvBlockPoolTest, TokensThatDifferFromAnEarlierCommitReplaceIt) {
  KvBlockPool pool(8, 2);
  ASSERT_TRUE(pool.Reserve(1, 6).ok());
  ASSERT_TRUE(pool.Reserve(2, 6).ok());
  pool.Commit(1, {1, 2, 3, 4, 5, 6});
  pool.Commit(1, {1, 2, 3, 9, 5, 6});
  pool.Commit(2, {1, 2, 3, 9, 5, 6});
  EXPECT_EQ(Hashes(pool, 1), Hashes(pool, 2));
  pool.Commit(1, {1, 2, 3});
  EXPECT_EQ(Hashes(pool, 1).size(), 1u);
  EXPECT_EQ(Hashes(pool, 1)[0], Hashes(pool, 2)[0]);
}

TEST(KvBlockPoolTest, ACommitBeyondTheReservedBlocksOrOfAnUnknownSequenceIsHarmless) {
  KvBlockPool pool(8, 2);
  pool.Commit(5, {1, 2});
  EXPECT_THAT(Hashes(pool, 5), IsEmpty());
  ASSERT_TRUE(pool.Reserve(1, 2).ok());
  pool.Commit(1, {1, 2, 3, 4});
  EXPECT_EQ(Hashes(pool, 1).size(), 1u);
}

TEST(KvBlockPoolTest, NoBlockIsEverHeldTwice) {
  std::mt19937 random(1);
  KvBlockPool pool(32, 4);
  std::map<uint64_t, int> tokens;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t id = random() % 10;
    if (random() % 4 == 0) {
      pool.Release(id);
      tokens.erase(id);
    } else {
      const int num_tokens = static_cast<int>(random() % 40);
      if (pool.Reserve(id, num_tokens).ok()) tokens[id] = std::max(tokens[id], num_tokens);
    }
    std::set<int32_t> held;
    size_t num_held = 0;
    for (const auto& [sequence, count] : tokens) {
      const auto blocks = Blocks(pool, sequence);
      ASSERT_EQ(blocks.size(), static_cast<size_t>((count + 3) / 4));
      held.insert(blocks.begin(), blocks.end());
      num_held += blocks.size();
    }
    ASSERT_EQ(held.size(), num_held);
    ASSERT_EQ(pool.num_free(), 32 - static_cast<int>(num_held));
  }
}

}  // namespace
}  // namespace moe::engine
