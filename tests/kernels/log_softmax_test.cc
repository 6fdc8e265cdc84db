// Tests kernels/log_softmax.h and the accuracy of Exp in simd.h.
#include "kernels/log_softmax.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

TEST(ExpTest, HasSmallErrorOverTheWholeRange) {
  ForEachContext([](const Context& context) {
    double worst = 0.0;
    std::vector<float> x;
    for (float value = -87.3f; value < 88.7f; value += 0.0013f) x.push_back(value);
    for (float value = 1e-30f; value < 1.0f; value *= 1.01f) {
      x.push_back(value);
      x.push_back(-value);
    }
    std::vector<float> e(x.size());
    ExpMinusMax(context, x.data(), 0.0f, static_cast<int>(x.size()), e.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      worst = std::max(worst, std::abs(e[i] - exact) / exact);
    }
    EXPECT_LT(worst, 1.28e-7);  // 2^-22.9
  });
}

TEST(ExpTest, EndsOfTheRange) {
  ForEachContext([](const Context& context) {
    std::array<float, 14> x = {0.0f,   -0.0f,  -88.0f, -104.0f, -1000.0f,  -kInfinity, 89.0f,
                               104.0f, 200.0f, 3e38f,  -3e38f,  kInfinity, 1e-40f,     kNan};
    ExpMinusMax(context, x.data(), 0.0f, x.size(), x.data());
    for (const int one : {0, 1, 12}) EXPECT_EQ(x[one], 1.0f);
    for (const int zero : {2, 3, 4, 5, 10}) EXPECT_EQ(x[zero], 0.0f) << zero;
    for (const int infinite : {6, 7, 8, 9, 11}) EXPECT_EQ(x[infinite], kInfinity) << infinite;
    EXPECT_TRUE(std::isnan(x[13]));
  });
}

TEST(LogSumExpTest, IsCloseToDoubleAndEqualAtEachLevel) {
  for (const int vocab_size : {1, 2, 15, 16, 17, 31, 1000, 50304}) {
    std::mt19937 random(vocab_size);
    GuardedBuffer<float> logits(vocab_size);
    Fill(logits, random, 4.0f);
    float max = -kInfinity;
    for (const float value : logits) max = std::max(max, value);
    double sum = 0.0;
    for (const float value : logits) sum += std::exp(static_cast<double>(value) - max);
    const double expected = std::log(sum) + max;
    ThreadPool pool({.num_threads = 1});
    const LogSumExp plain =
        ComputeLogSumExp({.level = CpuLevel::kPlain, .pool = &pool}, logits.data(), vocab_size);
    // x - max is rounded (the spread is below 64), Exp adds two units, the sum vocab / 16 + 4.
    EXPECT_NEAR(plain.log_sum_exp, expected, kUnit * (64 + 4 + vocab_size / 16.0 + 4));
    EXPECT_EQ(plain.max, max);
    EXPECT_TRUE(plain.finite);

    GuardedBuffer<float> plain_e(vocab_size);
    ExpMinusMax({.level = CpuLevel::kPlain, .pool = &pool}, logits.data(), max, vocab_size,
                plain_e.data());
    ForEachContext([&](const Context& context) {
      const LogSumExp result = ComputeLogSumExp(context, logits.data(), vocab_size);
      EXPECT_EQ(result.max, plain.max);
      EXPECT_EQ(result.log_sum_exp, plain.log_sum_exp);
      GuardedBuffer<float> e(vocab_size);
      ExpMinusMax(context, logits.data(), max, vocab_size, e.data());
      ExpectSame(e, plain_e);
    });
  }
}

TEST(LogSumExpTest, SumFollowsTheContract) {
  ForEachContext([](const Context& context) {
    constexpr int kVocab = 999;
    std::mt19937 random(4);
    GuardedBuffer<float> logits(kVocab);
    Fill(logits, random);
    const LogSumExp result = ComputeLogSumExp(context, logits.data(), kVocab);
    GuardedBuffer<float> e(kVocab);
    ExpMinusMax(context, logits.data(), result.max, kVocab, e.data());
    std::array<float, 16> lanes = {};
    for (int i = 0; i < kVocab; ++i) lanes[i % 16] += e[i];
    // log of the same fp32 sum, so only the logarithm's own error is left.
    EXPECT_NEAR(result.log_sum_exp,
                std::log(static_cast<double>(ReferenceTree(lanes))) + result.max, 1e-14);
  });
}

TEST(LogSumExpTest, SaysWhetherTheRowIsUsable) {
  struct Case {
    const char* name;
    std::vector<float> logits;
    bool finite;
    float max;
  };
  const std::vector<Case> cases = {
      {"banned tokens are allowed", {-kInfinity, 1.0f, -kInfinity}, true, 1.0f},
      {"all banned", {-kInfinity, -kInfinity}, false, -kInfinity},
      {"a NaN first", {kNan, 1.0f, 2.0f}, false, 2.0f},
      {"a NaN last", {1.0f, 2.0f, kNan}, false, 2.0f},
      {"only NaN", {kNan, kNan}, false, -kInfinity},
      {"plus infinity", {0.0f, kInfinity}, false, kInfinity},
      {"plus infinity and NaN", {kNan, kInfinity, kNan}, false, kInfinity},
      {"no logits", {}, false, -kInfinity},
      {"zeros of both signs", {-0.0f, 0.0f, -0.0f}, true, 0.0f},
      {"a denormal counts as zero", {1e-40f, -1.0f}, true, 0.0f},
  };
  ForEachContext([&](const Context& context) {
    for (const Case& test_case : cases) {
      SCOPED_TRACE(test_case.name);
      // Once as it is, once with the same values spread over several vectors.
      for (const int padding : {0, 40}) {
        std::vector<float> logits = test_case.logits;
        logits.insert(logits.begin() + static_cast<int64_t>(logits.size()) / 2, padding,
                      -kInfinity);
        const LogSumExp result =
            ComputeLogSumExp(context, logits.data(), static_cast<int>(logits.size()));
        EXPECT_EQ(result.finite, test_case.finite);
        EXPECT_TRUE(Same(result.max, test_case.max)) << result.max;
        EXPECT_EQ(std::isnan(result.log_sum_exp), !test_case.finite);
      }
    }
  });
}

}  // namespace
}  // namespace moe::kernels
