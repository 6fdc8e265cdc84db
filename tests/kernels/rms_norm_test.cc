// Tests kernels/rms_norm.h.
#include "kernels/rms_norm.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

constexpr float kEpsilon = 1e-5f;

// The contract for one element of a row.
float Scale(const float* x, int hidden) {
  std::array<float, 16> lanes = {};
  for (int i = 0; i < hidden; ++i) lanes[i % 16] += x[i] * x[i];
  return 1.0f / std::sqrt(ReferenceTree(lanes) / static_cast<float>(hidden) + kEpsilon);
}

TEST(RmsNormTest, EveryLevelAndThreadCountFollowsTheContractBitByBit) {
  ForEachContext([](const Context& context) {
    for (const int hidden : {1, 15, 16, 17, 37, 128, 2048}) {
      for (const int num_rows : {0, 1, 3, 40}) {
        std::mt19937 random(hidden);
        GuardedBuffer<float> x(int64_t{num_rows} * hidden);
        GuardedBuffer<BFloat16> weight(hidden);
        Fill(x, random, 3.0f);
        Fill(weight, random);
        GuardedBuffer<BFloat16> out(x.size());
        RmsNorm(context, x.data(), weight.data(), kEpsilon, num_rows, hidden, out.data());
        GuardedBuffer<BFloat16> expected(x.size());
        GuardedBuffer<float> expected_in_place(x.size());
        const ScopedFlushDenormals flush;
        for (int64_t row = 0; row < num_rows; ++row) {
          const float scale = Scale(x.data() + row * hidden, hidden);
          for (int i = 0; i < hidden; ++i) {
            const float value = x[row * hidden + i] * scale * ToFloat(weight[i]);
            expected_in_place[row * hidden + i] = value;
            expected[row * hidden + i] = ToBFloat16(value);
          }
        }
        ExpectSame(out, expected);
        RmsNormInPlace(context, x.data(), hidden, weight.data(), kEpsilon, num_rows, hidden);
        ExpectSame(x, expected_in_place);
      }
    }
  });
}

TEST(RmsNormTest, IsCloseToTheFormulaInDouble) {
  ForEachContext([](const Context& context) {
    constexpr int kHidden = 1000;
    std::mt19937 random(1);
    GuardedBuffer<float> x(kHidden);
    GuardedBuffer<BFloat16> weight(kHidden);
    Fill(x, random);
    Fill(weight, random);
    double squares = 0.0;
    for (const float value : x) squares += static_cast<double>(value) * value;
    const double scale = 1.0 / std::sqrt(squares / kHidden + kEpsilon);
    GuardedBuffer<float> out(kHidden);
    out.CopyFrom(x);
    RmsNormInPlace(context, out.data(), kHidden, weight.data(), kEpsilon, 1, kHidden);
    for (int i = 0; i < kHidden; ++i) {
      const double expected = x[i] * scale * ToFloat(weight[i]);
      // The sum has at most 63 + 4 + 1 roundings per term, halved by the root; 7 more around it.
      ASSERT_NEAR(out[i], expected, (68 / 2.0 + 7) * kUnit * std::abs(expected));
    }
  });
}

TEST(RmsNormTest, InPlaceLeavesTheRestOfARowAlone) {
  ForEachContext([](const Context& context) {
    constexpr int kHidden = 37;
    constexpr int kStride = 50;
    constexpr int kRows = 6;
    std::mt19937 random(2);
    GuardedBuffer<float> x(int64_t{kRows} * kStride);
    GuardedBuffer<float> before(x.size());
    GuardedBuffer<BFloat16> weight(kHidden);
    Fill(x, random);
    Fill(weight, random);
    before.CopyFrom(x);
    RmsNormInPlace(context, x.data(), kStride, weight.data(), kEpsilon, kRows, kHidden);
    for (int row = 0; row < kRows; ++row) {
      for (int i = kHidden; i < kStride; ++i) {
        ASSERT_EQ(x[row * kStride + i], before[row * kStride + i]);
      }
    }
  });
}

TEST(RmsNormTest, EdgeRowsAreTheSameAtEachLevel) {
  constexpr int kHidden = 20;
  GuardedBuffer<BFloat16> weight(kHidden);
  for (BFloat16& value : weight) value = ToBFloat16(1.0f);
  for (const float edge : kEdgeValues) {
    GuardedBuffer<float> x(kHidden);
    for (float& value : x) value = edge;
    const ScopedFlushDenormals flush;
    const float scale = Scale(x.data(), kHidden);
    ForEachContext([&](const Context& context) {
      GuardedBuffer<float> out(kHidden);
      out.CopyFrom(x);
      RmsNormInPlace(context, out.data(), kHidden, weight.data(), kEpsilon, 1, kHidden);
      for (int i = 0; i < kHidden; ++i) ASSERT_TRUE(Same(out[i], edge * scale * 1.0f)) << edge;
    });
  }
}

}  // namespace
}  // namespace moe::kernels
