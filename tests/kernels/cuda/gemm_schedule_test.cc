// Tests kernels/cuda/gemm_schedule.h.
#include "kernels/cuda/gemm_schedule.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace moe::kernels::cuda {
namespace {

TEST(SegmentsOfTest, CutKIntoAtMostEightPartsOfWholeStages) {
  for (int k = 0; k <= 20000; ++k) {
    const KSegments segments = SegmentsOf(k);
    ASSERT_GE(segments.length, kStepLength);
    ASSERT_EQ(segments.length % kStepLength, 0);
    ASSERT_LE(segments.count, kMaxSegments);
    ASSERT_GE(segments.length * segments.count, k);
    ASSERT_LT(segments.length * (segments.count - 1), std::max(k, 1)) << "an empty segment";
    ASSERT_EQ(segments.count == 0, k == 0);
  }
}

TEST(SegmentsOfTest, OlmoesLengthsGiveEightEqualSegments) {
  EXPECT_EQ(SegmentsOf(2048).length, 256);
  EXPECT_EQ(SegmentsOf(2048).count, 8);
  EXPECT_EQ(SegmentsOf(1024).length, 128);
  EXPECT_EQ(SegmentsOf(1024).count, 8);
}

TEST(ValidChunkBytesTest, CountsTheElementsThatAreLeft) {
  EXPECT_EQ(ValidChunkBytes(-5), 0);
  EXPECT_EQ(ValidChunkBytes(0), 0);
  EXPECT_EQ(ValidChunkBytes(1), 2);
  EXPECT_EQ(ValidChunkBytes(7), 14);
  EXPECT_EQ(ValidChunkBytes(8), 16);
  EXPECT_EQ(ValidChunkBytes(1000), 16);
}

TEST(TileRowTest, MatricesTakeTurnsAndTheWayBackIsTheInverse) {
  for (int r = 0; r < 128; ++r) {
    EXPECT_EQ(WeightMatrix<1>(r), 0);
    EXPECT_EQ(WeightRow<1>(r), r);
    EXPECT_EQ(TileRow<1>(0, r), r);
    EXPECT_EQ(TileRow<2>(WeightMatrix<2>(r), WeightRow<2>(r)), r);
    EXPECT_LT(WeightRow<2>(r), 64);
  }
  // The accumulators of neighbouring row tiles of one warp belong together.
  EXPECT_EQ(TileRow<2>(0, 5) + 16, TileRow<2>(1, 5));
}

TEST(ChooseTileTest, FewRowsTakeTheNarrowestTile) {
  EXPECT_EQ(ChooseTile(2048, 1, 1, 1, 132), (GemmTile{16, 8}));
  EXPECT_EQ(ChooseTile(2048, 8, 1, 1, 132), (GemmTile{16, 8}));
  EXPECT_EQ(ChooseTile(50304, 1, 1, 1, 132), (GemmTile{16, 8}));
  EXPECT_EQ(ChooseTile(1024, 1, 8, 2, 132), (GemmTile{32, 8}));
}

TEST(ChooseTileTest, ManyRowsTakeTheWidest) {
  EXPECT_EQ(ChooseTile(2048, 4096, 1, 1, 132), (GemmTile{128, 128}));
  EXPECT_EQ(ChooseTile(1024, 1024, 64, 2, 132), (GemmTile{128, 128}));
}

TEST(ChooseTileTest, AlwaysGivesATileThatExists) {
  for (const int matrices : {1, 2}) {
    for (const int rows : {1, 64, 2048, 50304}) {
      for (const int columns : {1, 9, 17, 64, 100, 5000}) {
        for (const int groups : {1, 8, 64}) {
          const GemmTile tile = ChooseTile(rows, columns, groups, matrices, 132);
          EXPECT_NE(std::find(kTileColumns.begin(), kTileColumns.end(), tile.columns),
                    kTileColumns.end());
          EXPECT_EQ(tile, TileOf(tile.columns, matrices));
          EXPECT_EQ(tile.rows % (16 * matrices), 0);
        }
      }
    }
  }
}

TEST(MaxGroupTilesTest, IsNeverLessThanWhatGroupsNeed) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    const int num_groups = 1 + static_cast<int>(random() % 70);
    const int num_pairs = static_cast<int>(random() % 600);
    const int skew = 1 + static_cast<int>(random() % num_groups);
    std::vector<int> counts(num_groups, 0);
    for (int i = 0; i < num_pairs; ++i) ++counts[random() % skew];
    for (const int columns : kTileColumns) {
      int64_t needed = 0;
      for (const int count : counts) needed += CeilDiv(count, columns);
      ASSERT_LE(needed, MaxGroupTiles(num_pairs, num_groups, columns));
    }
  }
  EXPECT_EQ(MaxGroupTiles(8, 64, 8), 8);
  EXPECT_EQ(MaxGroupTiles(0, 64, 8), 0);
}

}  // namespace
}  // namespace moe::kernels::cuda
