// Tests kernels/rope.h.
#include "kernels/rope.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

TEST(RopeTableTest, HoldsTheAnglesOfThePaper) {
  constexpr int kHeadDim = 128;
  const RopeTable table(kHeadDim, 4096, 10000.0);
  EXPECT_EQ(table.head_dim(), kHeadDim);
  EXPECT_EQ(table.max_positions(), 4096);
  for (const int position : {0, 1, 2, 100, 1023, 4095}) {
    for (int i = 0; i < kHeadDim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / kHeadDim);
      // Half a unit in the last place of values in [1/2, 1], and the angle's own error.
      const double tolerance = 0x1p-25 + 0x1p-48 * (1 + angle);
      EXPECT_NEAR(table.cos(position)[i], std::cos(angle), tolerance);
      EXPECT_NEAR(table.sin(position)[i], std::sin(angle), tolerance);
    }
  }
}

TEST(ApplyRopeTest, EveryLevelAndThreadCountFollowsTheContractBitByBit) {
  ForEachContext([](const Context& context) {
    for (const int head_dim : {2, 8, 32, 34, 90, 128}) {
      constexpr int kRows = 70;
      constexpr int kHeads = 5;
      const int stride = kHeads * head_dim + 3;
      const RopeTable table(head_dim, 500, 10000.0);
      std::mt19937 random(head_dim);
      std::vector<int> positions;
      for (int row = 0; row < kRows; ++row) positions.push_back(static_cast<int>(random() % 500));
      GuardedBuffer<float> x(int64_t{kRows} * stride);
      Fill(x, random);
      GuardedBuffer<float> expected(x.size());
      expected.CopyFrom(x);
      for (int row = 0; row < kRows; ++row) {
        for (int head = 0; head < kHeads; ++head) {
          for (int i = 0; i < head_dim / 2; ++i) {
            float& a = expected[row * stride + head * head_dim + i];
            float& b = expected[row * stride + head * head_dim + head_dim / 2 + i];
            const float cos = table.cos(positions[row])[i];
            const float sin = table.sin(positions[row])[i];
            const float rotated_a = std::fma(a, cos, -(b * sin));
            b = std::fma(b, cos, a * sin);
            a = rotated_a;
          }
        }
      }
      ApplyRope(context, table, positions.data(), kRows, kHeads, x.data(), stride);
      ExpectSame(x, expected);
    }
  });
}

TEST(ApplyRopeTest, PositionZeroChangesNothing) {
  ForEachContext([](const Context& context) {
    const RopeTable table(16, 4, 10000.0);
    std::mt19937 random(1);
    GuardedBuffer<float> x(16);
    GuardedBuffer<float> before(16);
    Fill(x, random);
    before.CopyFrom(x);
    const int position = 0;
    ApplyRope(context, table, &position, 1, 1, x.data(), 16);
    ExpectSame(x, before);
    ApplyRope(context, table, nullptr, 0, 1, nullptr, 16);
  });
}

}  // namespace
}  // namespace moe::kernels
