// Tests kernels/linear.h and, through it, packed_rows.h, dot_tile.h and simd.h.
#include "kernels/linear.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

struct Sizes {
  int num_rows;
  int in_features;
  int out_features;
};

// Around the register tile (4 x 6), the chunk (32) and one task; lengths as in small test models.
constexpr std::array<Sizes, 22> kSizes = {
    {{0, 32, 4},  {1, 32, 0},     {1, 0, 5},     {1, 1, 1},     {1, 31, 3},   {1, 32, 4},
     {1, 33, 5},  {2, 37, 7},     {3, 90, 17},   {4, 64, 8},    {5, 128, 9},  {6, 160, 4},
     {7, 37, 67}, {8, 90, 64},    {11, 33, 31},  {12, 256, 33}, {13, 65, 66}, {25, 96, 40},
     {31, 17, 6}, {2, 1000, 130}, {1, 2048, 64}, {49, 128, 50}}};

struct Problem {
  explicit Problem(const Sizes& problem_sizes)
      : sizes(problem_sizes),
        x(int64_t{sizes.num_rows} * sizes.in_features),
        weight(int64_t{sizes.out_features} * sizes.in_features),
        residual(int64_t{sizes.num_rows} * sizes.out_features) {}

  void FillRandom() {
    std::mt19937 random(7);
    Fill(x, random);
    Fill(weight, random);
    Fill(residual, random);
  }

  // The contract, element by element.
  float Expected(int row, int output, Accumulate accumulate) const {
    const float dot =
        ReferenceDot(x.data() + int64_t{row} * sizes.in_features,
                     weight.data() + int64_t{output} * sizes.in_features, sizes.in_features);
    const int64_t at = int64_t{row} * sizes.out_features + output;
    return accumulate == Accumulate::kYes ? residual[at] + dot : dot;
  }

  Sizes sizes;
  GuardedBuffer<BFloat16> x;
  GuardedBuffer<BFloat16> weight;
  GuardedBuffer<float> residual;
};

void ExpectContract(const Problem& problem, const Context& context, Accumulate accumulate) {
  const auto [num_rows, in_features, out_features] = problem.sizes;
  SCOPED_TRACE(std::to_string(num_rows) + " x " + std::to_string(in_features) + " x " +
               std::to_string(out_features));
  GuardedBuffer<float> out(problem.residual.size());
  out.CopyFrom(problem.residual);
  Linear(context, problem.x.data(), problem.weight.data(), num_rows, in_features, out_features,
         out.data(), out_features, accumulate);
  const ScopedFlushDenormals flush;
  for (int row = 0; row < num_rows; ++row) {
    for (int output = 0; output < out_features; ++output) {
      const float expected = problem.Expected(row, output, accumulate);
      const float actual = out[int64_t{row} * out_features + output];
      ASSERT_TRUE(Same(actual, expected))
          << "row " << row << ", output " << output << ": " << actual << ", expected " << expected;
    }
  }
}

TEST(LinearTest, EveryLevelAndThreadCountFollowsTheContractBitByBit) {
  ForEachContext([](const Context& context) {
    for (const Sizes& sizes : kSizes) {
      Problem problem(sizes);
      problem.FillRandom();
      ExpectContract(problem, context, Accumulate::kNo);
      ExpectContract(problem, context, Accumulate::kYes);
    }
  });
}

TEST(LinearTest, IsCloseToTheProductInDouble) {
  ForEachContext([](const Context& context) {
    for (const Sizes& sizes : kSizes) {
      Problem problem(sizes);
      problem.FillRandom();
      GuardedBuffer<float> out(problem.residual.size());
      Linear(context, problem.x.data(), problem.weight.data(), sizes.num_rows, sizes.in_features,
             sizes.out_features, out.data(), sizes.out_features);
      for (int row = 0; row < sizes.num_rows; ++row) {
        for (int output = 0; output < sizes.out_features; ++output) {
          double sum = 0.0;
          double sum_of_magnitudes = 0.0;
          for (int i = 0; i < sizes.in_features; ++i) {
            const double term =
                static_cast<double>(ToFloat(problem.x[int64_t{row} * sizes.in_features + i])) *
                ToFloat(problem.weight[int64_t{output} * sizes.in_features + i]);
            sum += term;
            sum_of_magnitudes += std::abs(term);
          }
          // Each term passes through at most length / 16 + 2 roundings in its lane and 4 in the
          // tree; 1.01 covers their products.
          const double tolerance = 1.01 * kUnit * (sizes.in_features / 16 + 6) * sum_of_magnitudes;
          ASSERT_NEAR(out[int64_t{row} * sizes.out_features + output], sum, tolerance);
        }
      }
    }
  });
}

TEST(LinearTest, EdgeValuesFollowTheContract) {
  ForEachContext([](const Context& context) {
    for (const Sizes& sizes : {Sizes{3, 64, 14}, Sizes{7, 37, 9}}) {
      std::mt19937 random(11);
      // Each value meets each other one; the rest is ordinary, or zero so that tiny sums stay tiny.
      for (const float rest : {1.0f, 0.0f, kSmallestNormal}) {
        Problem problem(sizes);
        Fill(problem.residual, random, kSmallestNormal);
        for (size_t a = 0; a < kEdgeValues.size(); ++a) {
          for (BFloat16& value : problem.x) value = ToBFloat16(rest);
          for (BFloat16& value : problem.weight) value = ToBFloat16(rest);
          for (int row = 0; row < sizes.num_rows; ++row) {
            problem.x[row * sizes.in_features + 3 * row] = ToBFloat16(kEdgeValues[a]);
          }
          for (int output = 0; output < sizes.out_features; ++output) {
            const BFloat16 edge = ToBFloat16(kEdgeValues[output % kEdgeValues.size()]);
            for (int row = 0; row < sizes.num_rows; ++row) {
              problem.weight[output * sizes.in_features + 3 * row] = edge;
            }
          }
          ExpectContract(problem, context, Accumulate::kNo);
          ExpectContract(problem, context, Accumulate::kYes);
        }
      }
    }
  });
}

TEST(LinearTest, TinyProductsFollowTheContract) {
  // Magnitudes around 2^-63, whose products lie on both sides of the smallest normal number: sums
  // are flushed to zero at every step where they are too small.
  ForEachContext([](const Context& context) {
    std::mt19937 random(3);
    std::uniform_int_distribution<int> exponent(-68, -58);
    Problem problem({.num_rows = 8, .in_features = 96, .out_features = 40});
    const auto tiny = [&] { return ToBFloat16(std::ldexp(Random(random), exponent(random))); };
    for (BFloat16& value : problem.x) value = tiny();
    for (BFloat16& value : problem.weight) value = tiny();
    Fill(problem.residual, random, kSmallestNormal);
    ExpectContract(problem, context, Accumulate::kNo);
    ExpectContract(problem, context, Accumulate::kYes);
  });
}

TEST(LinearTest, RandomBitPatternsFollowTheContract) {
  ForEachContext([](const Context& context) {
    std::mt19937 random(5);
    Problem problem({.num_rows = 6, .in_features = 34, .out_features = 300});
    // Exponents from the whole range, without infinities and NaN: these are in the test above.
    const auto any = [&]() -> BFloat16 {
      const auto bits = static_cast<uint16_t>(random());
      return {static_cast<uint16_t>((bits & 0x7f80u) == 0x7f80u ? bits & 0xbfffu : bits)};
    };
    for (BFloat16& value : problem.x) value = any();
    for (BFloat16& value : problem.weight) value = any();
    ExpectContract(problem, context, Accumulate::kNo);
  });
}

TEST(LinearTest, ARowHasTheSameBitsAloneAndInABatch) {
  ForEachContext([](const Context& context) {
    const Sizes sizes = {.num_rows = 20, .in_features = 90, .out_features = 19};
    Problem problem(sizes);
    problem.FillRandom();
    GuardedBuffer<float> batch(problem.residual.size());
    Linear(context, problem.x.data(), problem.weight.data(), sizes.num_rows, sizes.in_features,
           sizes.out_features, batch.data(), sizes.out_features);
    for (int first = 0; first < sizes.num_rows; ++first) {
      for (const int count : {1, 2, 5}) {
        if (first + count > sizes.num_rows) continue;
        GuardedBuffer<float> part(int64_t{count} * sizes.out_features);
        Linear(context, problem.x.data() + first * sizes.in_features, problem.weight.data(), count,
               sizes.in_features, sizes.out_features, part.data(), sizes.out_features);
        for (int64_t i = 0; i < part.size(); ++i) {
          ASSERT_TRUE(Same(part[i], batch[first * sizes.out_features + i]));
        }
      }
    }
  });
}

TEST(LinearTest, WritesOnlyTheFirstOutFeaturesOfARow) {
  ForEachContext([](const Context& context) {
    const Sizes sizes = {.num_rows = 9, .in_features = 40, .out_features = 13};
    constexpr int kStride = 17;
    Problem problem(sizes);
    problem.FillRandom();
    std::vector<float> out(sizes.num_rows * kStride, 42.0f);
    Linear(context, problem.x.data(), problem.weight.data(), sizes.num_rows, sizes.in_features,
           sizes.out_features, out.data(), kStride);
    for (int row = 0; row < sizes.num_rows; ++row) {
      for (int i = 0; i < kStride; ++i) {
        const float expected =
            i < sizes.out_features ? problem.Expected(row, i, Accumulate::kNo) : 42.0f;
        ASSERT_EQ(out[row * kStride + i], expected);
      }
    }
  });
}

}  // namespace
}  // namespace moe::kernels
