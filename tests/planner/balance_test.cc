#include "planner/balance.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace moe::planner {
namespace {

// Busiest rank beside the mean, over `trials` steps in which every token draws k distinct experts.
double Simulate(int num_experts, int top_k, int num_ranks, int num_tokens, int trials) {
  std::mt19937 random(20251129);
  std::vector<int> experts(num_experts);
  std::iota(experts.begin(), experts.end(), 0);
  double sum = 0;
  for (int trial = 0; trial < trials; ++trial) {
    std::vector<int> rows(num_ranks, 0);
    for (int token = 0; token < num_tokens; ++token) {
      for (int i = 0; i < top_k; ++i) {
        std::uniform_int_distribution<int> rest(i, num_experts - 1);
        std::swap(experts[i], experts[rest(random)]);
        ++rows[experts[i] * num_ranks / num_experts];
      }
    }
    sum += *std::max_element(rows.begin(), rows.end());
  }
  return sum / trials / (static_cast<double>(num_tokens) * top_k / num_ranks);
}

TEST(BalanceTest, AUniformRouterOf64ExpertsIsUnevenAsPublished) {
  struct Row {
    double batch;
    double max_over_mean;
  };
  for (const Row& row : {Row{8, 3.55}, Row{64, 1.87}, Row{256, 1.41}, Row{1024, 1.20}}) {
    EXPECT_NEAR(
        ExpectedTrafficMaxOverMean({.num_experts = 64, .top_k = 8, .num_ranks = 64}, row.batch),
        row.max_over_mean, row.max_over_mean * 0.03)
        << row.batch;
  }
}

TEST(BalanceTest, TheMethodIsNearSimulatedRouting) {
  struct Row {
    int num_experts;
    int top_k;
    int num_ranks;
  };
  for (const Row& row : {Row{64, 8, 64}, Row{64, 8, 8}, Row{64, 8, 2}, Row{256, 8, 16},
                         Row{256, 8, 64}, Row{8, 2, 8}, Row{8, 2, 4}}) {
    for (const int tokens : {1, 8, 64, 512}) {
      const double simulated =
          Simulate(row.num_experts, row.top_k, row.num_ranks, tokens, 200000 / (tokens + 64));
      EXPECT_NEAR(
          ExpectedTrafficMaxOverMean(
              {.num_experts = row.num_experts, .top_k = row.top_k, .num_ranks = row.num_ranks},
              tokens),
          simulated, simulated * (tokens == 1 ? 0.12 : 0.05))
          << row.num_experts << " experts on " << row.num_ranks << " ranks, " << tokens
          << " tokens";
    }
  }
}

TEST(BalanceTest, OneTokenSendsEachOfItsRanksOneRow) {
  // 8 of 64 ranks get a row each: 1 / (8 / 64).
  EXPECT_NEAR(ExpectedTrafficMaxOverMean({.num_experts = 64, .top_k = 8, .num_ranks = 64}, 1), 8,
              0.01);
}

TEST(BalanceTest, OneRankIsAlwaysBalanced) {
  EXPECT_EQ(ExpectedTrafficMaxOverMean({.num_experts = 64, .top_k = 8, .num_ranks = 1}, 64), 1);
}

TEST(BalanceTest, MoreTokensAreMoreEvenAndFavouritesStay) {
  Routing routing{.num_experts = 64, .top_k = 8, .num_ranks = 64};
  double previous = 100;
  for (double tokens = 1; tokens < 1e6; tokens *= 2) {
    const double now = ExpectedTrafficMaxOverMean(routing, tokens);
    EXPECT_LE(now, previous * 1.0001) << tokens;
    EXPECT_GE(now, 1);
    previous = now;
  }
  routing.router_max_over_mean = 1.5;
  EXPECT_NEAR(ExpectedTrafficMaxOverMean(routing, 1e6), 1.5, 0.02);
}

TEST(BalanceTest, DistinctRanksShrinkWithTheWidthAsPublished) {
  struct Row {
    int num_ranks;
    double share;  // of the ranks
  };
  for (const Row& row :
       {Row{4, 0.91}, Row{8, 0.68}, Row{16, 0.42}, Row{32, 0.24}, Row{64, 0.125}}) {
    EXPECT_NEAR(ExpectedDistinctRanks(64, 8, row.num_ranks) / row.num_ranks, row.share, 0.006);
  }
}

TEST(BalanceTest, DistinctExpertsGrowWithTheBatchAsPublished) {
  struct Row {
    double batch;
    double experts;
  };
  for (const Row& row : {Row{1, 8}, Row{8, 42}, Row{64, 64}}) {
    EXPECT_NEAR(ExpectedDistinctExperts(64, 8, row.batch), row.experts, 0.5);
  }
}

}  // namespace
}  // namespace moe::planner
