// Tests kernels/cuda/tile_layout.h against the fragments of the PTX ISA, written down here once
// more as element positions. The emulator has a third version, which whole kernels run on.
#include "kernels/cuda/tile_layout.h"

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace moe::kernels::cuda {
namespace {

// The element (row, column) of an m16n8k16 fragment that element i of a lane is (registers hold
// two).
struct Element {
  int row;
  int column;
};
Element ElementOfA(int lane, int i) {
  const bool low_row = (i >= 0 && i < 2) || (i >= 4 && i < 6);
  return {lane / 4 + (low_row ? 0 : 8), lane % 4 * 2 + i % 2 + (i < 4 ? 0 : 8)};
}
Element ElementOfB(int lane, int i) {  // row: along k
  return {lane % 4 * 2 + i % 2 + (i < 2 ? 0 : 8), lane / 4};
}

// A tile in shared memory, [rows][kRowChunks * kChunk], whose elements name themselves.
template <int kRowChunks>
struct Tile {
  explicit Tile(int num_rows) : elements(num_rows * kRowChunks * kChunk) {
    for (int row = 0; row < num_rows; ++row) {
      for (int column = 0; column < kRowChunks * kChunk; ++column) {
        elements[SwizzledChunk<kRowChunks>(row, column / kChunk) * kChunk + column % kChunk] = {
            row, column};
      }
    }
  }
  // What ldmatrix gives element i (0 .. 7) of `lane`, the lanes naming place(lane) as their rows.
  template <typename Place>
  Element Loaded(const Place& place, int lane, int i, bool transposed) const {
    const int matrix = i / 2;
    const int row = transposed ? lane % 4 * 2 + i % 2 : lane / 4;
    const int column = transposed ? lane / 4 : lane % 4 * 2 + i % 2;
    const ChunkPlace named = place(8 * matrix + row);
    return elements[SwizzledChunk<kRowChunks>(named.row, named.chunk) * kChunk + column];
  }
  std::vector<Element> elements;
};

TEST(SwizzledChunkTest, EveryChunkHasAPlaceOfItsOwn) {
  std::set<int> four;
  std::set<int> eight;
  std::set<int> sixteen;
  for (int row = 0; row < 16; ++row) {
    for (int chunk = 0; chunk < 16; ++chunk) {
      if (chunk < 4) four.insert(SwizzledChunk<4>(row, chunk));
      if (chunk < 8) eight.insert(SwizzledChunk<8>(row, chunk));
      sixteen.insert(SwizzledChunk<16>(row, chunk));
    }
  }
  EXPECT_EQ(four.size(), 64u);
  EXPECT_EQ(*four.rbegin(), 63);
  EXPECT_EQ(eight.size(), 128u);
  EXPECT_EQ(*eight.rbegin(), 127);
  EXPECT_EQ(sixteen.size(), 256u);
  EXPECT_EQ(*sixteen.rbegin(), 255);
}

template <int kRowChunks>
void ExpectNoBankConflicts() {
  for (int first = 0; first < 32; first += 8) {
    for (int chunk = 0; chunk < kRowChunks; ++chunk) {
      std::set<int> columns;  // of the eight 16-byte columns that one access serves
      for (int row = first; row < first + 8; ++row) {
        columns.insert(SwizzledChunk<kRowChunks>(row, chunk) % 8);
      }
      EXPECT_EQ(columns.size(), 8u) << "rows from " << first << ", chunk " << chunk;
    }
  }
}

TEST(SwizzledChunkTest, EightRowsOfAChunkMeetNoBankConflict) {
  ExpectNoBankConflicts<4>();
  ExpectNoBankConflicts<8>();
  ExpectNoBankConflicts<16>();
}

TEST(PlaceOfATest, GivesTheFragmentOfTheIsa) {
  const Tile<8> tile(16);
  for (int step = 0; step < 4; ++step) {
    const auto place = [step](int lane) {
      const ChunkPlace p = PlaceOfA(lane);
      return ChunkPlace{p.row, 2 * step + p.chunk};
    };
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const Element loaded = tile.Loaded(place, lane, i, false);
        const Element wanted = ElementOfA(lane, i);
        EXPECT_EQ(loaded.row, wanted.row);
        EXPECT_EQ(loaded.column, 16 * step + wanted.column);
      }
    }
  }
}

TEST(PlaceOfTwoBTest, GivesTheFragmentsOfTwoColumnTiles) {
  const Tile<8> tile(16);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const Element loaded = tile.Loaded(PlaceOfTwoB, lane, i, false);
      const Element wanted = ElementOfB(lane, i % 4);
      EXPECT_EQ(loaded.row, wanted.column + i / 4 * 8);  // tokens are rows in memory
      EXPECT_EQ(loaded.column, wanted.row);
    }
  }
}

TEST(PlaceOfBTwiceTest, GivesTheFragmentsOfTwoStepsOfK) {
  const Tile<8> tile(8);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 8; ++i) {
      const Element loaded = tile.Loaded(PlaceOfBTwice, lane, i, false);
      const Element wanted = ElementOfB(lane, i % 4);
      EXPECT_EQ(loaded.row, wanted.column);
      EXPECT_EQ(loaded.column, i / 4 * 16 + wanted.row);
    }
  }
}

TEST(PlaceOfTransposedATest, GivesTheFragmentOfTheTransposedTile) {
  const Tile<16> tile(16);  // [keys][head_dim]
  for (int d = 0; d < 8; ++d) {
    const auto place = [d](int lane) {
      const ChunkPlace p = PlaceOfTransposedA(lane);
      return ChunkPlace{p.row, 2 * d + p.chunk};
    };
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 8; ++i) {
        const Element loaded = tile.Loaded(place, lane, i, true);
        const Element wanted = ElementOfA(lane, i);
        EXPECT_EQ(loaded.column, 16 * d + wanted.row);
        EXPECT_EQ(loaded.row, wanted.column);
      }
    }
  }
}

TEST(RowOfCTest, TheFragmentCoversTheTileOnce) {
  std::set<std::pair<int, int>> places;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(RowOfC(lane, i), i < 2 ? lane / 4 : lane / 4 + 8);
      EXPECT_EQ(ColumnOfC(lane, i), lane % 4 * 2 + (i & 1));
      places.insert({RowOfC(lane, i), ColumnOfC(lane, i)});
    }
  }
  EXPECT_EQ(places.size(), 128u);
}

}  // namespace
}  // namespace moe::kernels::cuda
