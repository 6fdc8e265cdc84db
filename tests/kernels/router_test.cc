// Tests kernels/router.h.
#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/kernel_test.h"

namespace moe::kernels {
namespace {

struct Routes {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routes Route(const Context& context, const GuardedBuffer<float>& logits, int num_rows,
             int num_experts, int top_k, bool normalise) {
  GuardedBuffer<int32_t> ids(int64_t{num_rows} * top_k);
  GuardedBuffer<float> weights(int64_t{num_rows} * top_k);
  RouteTopK(context, logits.data(), num_rows, num_experts, top_k, normalise, ids.data(),
            weights.data());
  return {{ids.begin(), ids.end()}, {weights.begin(), weights.end()}};
}

TEST(RouteTopKTest, ChoosesTheLargestAsDoubleDoes) {
  ForEachContext([](const Context& context) {
    for (const auto& [num_experts, top_k] :
         std::vector<std::pair<int, int>>{{64, 8}, {5, 5}, {1, 1}, {17, 3}, {128, 1}}) {
      for (const bool normalise : {false, true}) {
        constexpr int kRows = 50;
        std::mt19937 random(num_experts);
        GuardedBuffer<float> logits(int64_t{kRows} * num_experts);
        Fill(logits, random, 2.0f);
        const Routes routes = Route(context, logits, kRows, num_experts, top_k, normalise);
        for (int row = 0; row < kRows; ++row) {
          const float* x = logits.data() + int64_t{row} * num_experts;
          std::vector<int32_t> order(num_experts);
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(),
                           [x](int32_t a, int32_t b) { return x[a] > x[b]; });
          double total = 0.0;
          for (int i = 0; i < (normalise ? top_k : num_experts); ++i) {
            total += std::exp(static_cast<double>(x[order[i]]));
          }
          order.resize(top_k);
          std::sort(order.begin(), order.end());
          for (int k = 0; k < top_k; ++k) {
            ASSERT_EQ(routes.ids[row * top_k + k], order[k]);
            const double expected = std::exp(static_cast<double>(x[order[k]])) / total;
            // x - max is rounded (spread below 16), Exp has 2 units, the sums 8 + 4, two quotients.
            ASSERT_NEAR(routes.weights[row * top_k + k], expected, 40 * kUnit * expected);
          }
        }
      }
    }
  });
}

TEST(RouteTopKTest, EveryLevelAndThreadCountGivesTheBitsOfPlain) {
  constexpr int kRows = 200;
  constexpr int kExperts = 61;
  std::mt19937 random(9);
  GuardedBuffer<float> logits(int64_t{kRows} * kExperts);
  Fill(logits, random);
  for (const bool normalise : {false, true}) {
    ThreadPool pool({.num_threads = 1});
    const Routes plain =
        Route({.level = CpuLevel::kPlain, .pool = &pool}, logits, kRows, kExperts, 8, normalise);
    ForEachContext([&](const Context& context) {
      const Routes routes = Route(context, logits, kRows, kExperts, 8, normalise);
      EXPECT_EQ(routes.ids, plain.ids);
      EXPECT_EQ(routes.weights, plain.weights);
    });
  }
}

TEST(RouteTopKTest, TiesGoToTheLowestId) {
  ForEachContext([](const Context& context) {
    GuardedBuffer<float> logits(6);
    const std::vector<float> values = {1.0f, 3.0f, 2.0f, 3.0f, 2.0f, 2.0f};
    std::copy(values.begin(), values.end(), logits.begin());
    EXPECT_EQ(Route(context, logits, 1, 6, 3, false).ids, (std::vector<int32_t>{1, 2, 3}));
    std::fill(logits.begin(), logits.end(), 0.5f);
    EXPECT_EQ(Route(context, logits, 1, 6, 4, false).ids, (std::vector<int32_t>{0, 1, 2, 3}));
  });
}

TEST(RouteTopKTest, ARowThatIsNotFiniteGetsValidIdsAndNanWeights) {
  ForEachContext([](const Context& context) {
    constexpr int kExperts = 20;
    for (const float bad : {kNan, kInfinity}) {
      GuardedBuffer<float> logits(3 * kExperts);
      std::fill(logits.begin(), logits.end(), 0.0f);
      for (int id = 0; id < kExperts; ++id) logits[2 * kExperts + id] = static_cast<float>(id);
      logits[kExperts + 17] = bad;
      const Routes routes = Route(context, logits, 3, kExperts, 2, true);
      EXPECT_EQ(routes.ids, (std::vector<int32_t>{0, 1, 0, 1, 18, 19}));
      EXPECT_EQ(routes.weights[0], 0.5f);
      EXPECT_TRUE(std::isnan(routes.weights[2]) && std::isnan(routes.weights[3]));
      EXPECT_LT(routes.weights[4], routes.weights[5]);
    }
    GuardedBuffer<float> banned(4);
    std::fill(banned.begin(), banned.end(), -kInfinity);
    EXPECT_EQ(Route(context, banned, 1, 4, 2, true).ids, (std::vector<int32_t>{0, 1}));
  });
}

TEST(RouteTopKTest, FewerFiniteLogitsThanTopK) {
  ForEachContext([](const Context& context) {
    GuardedBuffer<float> logits(4);
    std::fill(logits.begin(), logits.end(), -kInfinity);
    logits[2] = 1.0f;
    const Routes routes = Route(context, logits, 1, 4, 3, true);
    EXPECT_EQ(routes.ids, (std::vector<int32_t>{0, 1, 2}));
    EXPECT_EQ(routes.weights, (std::vector<float>{0.0f, 0.0f, 1.0f}));
    EXPECT_TRUE(Route(context, logits, 0, 4, 3, true).ids.empty());
  });
}

}  // namespace
}  // namespace moe::kernels
