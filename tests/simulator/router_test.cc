#include "simulator/router.h"

#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/balance.h"

namespace moe::simulator {
namespace {

using ::testing::HasSubstr;

constexpr RouterShape kOlmoe = {.num_layers = 16, .num_experts = 64, .top_k = 8};

RouterModel Make(const RouterSpec& spec, int num_ranks, uint64_t seed = 1) {
  return RouterModel::Create(spec, kOlmoe, *coordinator::PlaceInBlocks(64, num_ranks), seed)
      .value();
}

double MeanTraffic(RouterModel* router, int num_rows) {
  double sum = 0;
  for (int i = 0; i < 200; ++i) sum += router->DrawTraffic(num_rows);
  return sum / 200;
}

TEST(RouterTest, RoutersAreRead) {
  EXPECT_EQ(ParseRouter("uniform")->kind, RouterSpec::Kind::kUniform);
  EXPECT_EQ(ParseRouter("zipf:1.1")->exponent, 1.1);
  for (const char* text : {"", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:11", "counts.json"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseRouter(text).status())) << text;
  }
}

// The planner's expectation is an approximation of its own: see balance_test.cc for its 5%.
TEST(RouterTest, UniformRoutesAreAsUnevenAsThePlannerExpects) {
  for (const int num_ranks : {4, 16, 64}) {
    RouterModel router = Make({}, num_ranks);
    for (const int num_rows : {8, 64, 256, 1024}) {
      const double expected = planner::ExpectedTrafficMaxOverMean(
          {.num_experts = 64, .top_k = 8, .num_ranks = num_ranks}, num_rows);
      EXPECT_NEAR(MeanTraffic(&router, num_rows), expected, 0.08 * expected)
          << num_ranks << " ranks, " << num_rows << " rows";
    }
  }
}

TEST(RouterTest, OneRowGoesToOneRankForEachOfItsExperts) {
  RouterModel router = Make({}, 64);
  EXPECT_DOUBLE_EQ(router.DrawTraffic(1), 8);
}

TEST(RouterTest, OneRankHasAllRows) { EXPECT_EQ(Make({}, 1).DrawTraffic(100), 1); }

TEST(RouterTest, SharesOfALayerAddUpToTopKAndNoneIsAboveOne) {
  for (const double exponent : {0.0, 0.7, 1.1, 3.0, 10.0}) {
    const RouterModel router = Make({.kind = RouterSpec::Kind::kZipf, .exponent = exponent}, 64);
    ASSERT_EQ(router.shares().size(), 16);
    for (const std::vector<double>& layer : router.shares()) {
      EXPECT_NEAR(std::accumulate(layer.begin(), layer.end(), 0.0), 8, 1e-9);
      for (const double share : layer) {
        EXPECT_GE(share, 0);
        EXPECT_LE(share, 1);
      }
    }
  }
}

TEST(RouterTest, SkewLoadsTheBusiestRankMore) {
  double before = 0;
  for (const double exponent : {0.0, 0.5, 1.0}) {
    RouterModel router = Make({.kind = RouterSpec::Kind::kZipf, .exponent = exponent}, 64);
    const double traffic = MeanTraffic(&router, 1024);
    EXPECT_GT(traffic, before);
    before = traffic;
  }
}

TEST(RouterTest, ManyRowsFollowTheMeasuredShares) {
  // Expert 0 of each layer has twice the tokens of any other.
  RouterSpec spec{.kind = RouterSpec::Kind::kMeasured,
                  .expert_tokens = std::vector<uint64_t>(16 * 64, 1000)};
  for (size_t layer = 0; layer < 16; ++layer) spec.expert_tokens[layer * 64] = 2000;
  RouterModel router = Make(spec, 64);
  EXPECT_NEAR(router.shares()[3][0], 8 * 2.0 / 65, 1e-9);
  EXPECT_NEAR(MeanTraffic(&router, 8192), 64 * 2.0 / 65, 0.03);
}

TEST(RouterTest, ASeedGivesTheSameRoutesAgain) {
  RouterModel a = Make({}, 64, 5);
  RouterModel b = Make({}, 64, 5);
  RouterModel c = Make({}, 64, 6);
  int different = 0;
  for (int rows = 1; rows < 300; ++rows) {
    const double traffic = a.DrawTraffic(rows);
    EXPECT_EQ(traffic, b.DrawTraffic(rows));
    different += traffic != c.DrawTraffic(rows) ? 1 : 0;
  }
  EXPECT_GT(different, 200);
}

TEST(RouterTest, MeasurementsOfAnotherModelAreRefused) {
  const auto placement = *coordinator::PlaceInBlocks(64, 8);
  const RouterSpec other{.kind = RouterSpec::Kind::kMeasured,
                         .expert_tokens = std::vector<uint64_t>(16 * 60, 1)};
  EXPECT_THAT(RouterModel::Create(other, kOlmoe, placement, 1).status().message(),
              HasSubstr("this model has 16 layers of 64 experts"));
  RouterSpec few{.kind = RouterSpec::Kind::kMeasured,
                 .expert_tokens = std::vector<uint64_t>(16 * 64, 1)};
  for (size_t e = 5; e < 64; ++e) few.expert_tokens[3 * 64 + e] = 0;
  EXPECT_THAT(RouterModel::Create(few, kOlmoe, placement, 1).status().message(),
              HasSubstr("5 experts of layer 3 were used, fewer than the 8"));
}

}  // namespace
}  // namespace moe::simulator
