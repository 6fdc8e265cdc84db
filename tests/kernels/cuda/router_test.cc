// Tests kernels/cuda/router.h.
#include "kernels/cuda/router.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/router.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

struct Routes {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

class CudaRouterTest : public GpuTest {
 protected:
  Routes OnGpu(const std::vector<float>& logits, int num_rows, int num_experts, int top_k,
               bool normalise) {
    const auto device_logits = Upload(logits);
    const auto ids = Allocate<int32_t>(int64_t{num_rows} * top_k);
    const auto weights = Allocate<float>(int64_t{num_rows} * top_k);
    Check(RouteTopK(gpu(), device_logits.data(), num_rows, num_experts, top_k, normalise,
                    ids.data(), weights.data()));
    return {Download(ids), Download(weights)};
  }
  Routes OnCpu(const std::vector<float>& logits, int num_rows, int num_experts, int top_k,
               bool normalise) {
    Routes routes = {std::vector<int32_t>(int64_t{num_rows} * top_k),
                     std::vector<float>(int64_t{num_rows} * top_k)};
    kernels::RouteTopK(cpu(), logits.data(), num_rows, num_experts, top_k, normalise,
                       routes.ids.data(), routes.weights.data());
    return routes;
  }
};

TEST_F(CudaRouterTest, ChoosesWhatTheCpuChooses) {
  std::mt19937 random(1);
  for (const auto& [num_rows, num_experts, top_k] : std::vector<std::array<int, 3>>{{0, 64, 8},
                                                                                    {1, 64, 8},
                                                                                    {33, 64, 8},
                                                                                    {5, 5, 5},
                                                                                    {3, 1, 1},
                                                                                    {6, 17, 3},
                                                                                    {5, 128, 1},
                                                                                    {4, 200, 32},
                                                                                    {3, 1000, 8},
                                                                                    {2, 33, 32}}) {
    for (const bool normalise : {false, true}) {
      SCOPED_TRACE(std::to_string(num_rows) + ", " + std::to_string(num_experts));
      // Logits a quarter apart, so that no rounding makes a tie.
      std::vector<float> logits;
      for (int row = 0; row < num_rows; ++row) {
        std::vector<float> values(num_experts);
        for (int e = 0; e < num_experts; ++e) {
          values[e] = 0.25f * static_cast<float>(e % 60) + 0.001f * static_cast<float>(e / 60);
        }
        std::shuffle(values.begin(), values.end(), random);
        logits.insert(logits.end(), values.begin(), values.end());
      }
      const Routes actual = OnGpu(logits, num_rows, num_experts, top_k, normalise);
      const Routes expected = OnCpu(logits, num_rows, num_experts, top_k, normalise);
      ASSERT_EQ(actual.ids, expected.ids);
      for (size_t i = 0; i < actual.weights.size(); ++i) {
        // exp has 2 units on each side, the difference before it is exact or 8 units at most, the
        // sums have at most 69 and 37 roundings, and there are two quotients.
        ASSERT_NEAR(actual.weights[i], expected.weights[i],
                    140 * kUnit * std::abs(expected.weights[i]));
      }
    }
  }
}

TEST_F(CudaRouterTest, EqualLogitsGoToTheLowestIds) {
  std::vector<float> logits(64, 1.0f);
  logits[40] = 2.0f;
  const Routes routes = OnGpu(logits, 1, 64, 4, false);
  EXPECT_EQ(routes.ids, (std::vector<int32_t>{0, 1, 2, 40}));
}

TEST_F(CudaRouterTest, RowsThatAreNotFiniteGetTheFirstExpertsWithNan) {
  const int num_experts = 40;
  std::vector<float> logits(int64_t{5} * num_experts, 1.0f);
  logits[7] = kNan;
  logits[num_experts + 39] = kInfinity;
  std::fill_n(logits.begin() + 2 * num_experts, num_experts, -kInfinity);
  logits[3 * num_experts + 1] = -kInfinity;  // one of them is an ordinary row
  const Routes actual = OnGpu(logits, 5, num_experts, 3, true);
  const Routes expected = OnCpu(logits, 5, num_experts, 3, true);
  EXPECT_EQ(actual.ids, expected.ids);
  for (size_t i = 0; i < actual.weights.size(); ++i) {
    EXPECT_EQ(std::isnan(actual.weights[i]), std::isnan(expected.weights[i])) << i;
  }
  EXPECT_TRUE(std::isnan(actual.weights[0]));
  EXPECT_FALSE(std::isnan(actual.weights[9]));
}

TEST_F(CudaRouterTest, ARowHasTheSameBitsAloneAndInABatch) {
  std::mt19937 random(9);
  const std::vector<float> logits = RandomFloats(int64_t{64} * 64, random);
  const Routes batch = OnGpu(logits, 64, 64, 8, true);
  for (const int row : {0, 5, 63}) {
    const Routes alone =
        OnGpu(std::vector<float>(logits.begin() + row * 64, logits.begin() + (row + 1) * 64), 1, 64,
              8, true);
    ExpectSameBits(alone.weights, std::vector<float>(batch.weights.begin() + row * 8,
                                                     batch.weights.begin() + (row + 1) * 8));
  }
}

TEST_F(CudaRouterTest, RowsToSpareChooseNobodyAndOthersKeepTheirBits) {
  std::mt19937 random(10);
  constexpr int kRows = 9;
  constexpr int kExperts = 40;
  constexpr int kTopK = 3;
  const std::vector<float> logits = RandomFloats(int64_t{kRows} * kExperts, random);
  const Routes all = OnGpu(logits, kRows, kExperts, kTopK, true);
  for (const int num_chosen : {0, 1, 5, kRows}) {
    SCOPED_TRACE(num_chosen);
    const auto device_logits = Upload(logits);
    const auto number = Upload(std::vector<int32_t>{num_chosen});
    const auto ids = Allocate<int32_t>(int64_t{kRows} * kTopK);
    const auto weights = Allocate<float>(int64_t{kRows} * kTopK);
    Check(RouteTopK(gpu(), device_logits.data(), kRows, kExperts, kTopK, true, ids.data(),
                    weights.data(), number.data()));
    Routes expected = all;
    std::fill(expected.ids.begin() + num_chosen * kTopK, expected.ids.end(), kExperts);
    std::fill(expected.weights.begin() + num_chosen * kTopK, expected.weights.end(), 0.0f);
    EXPECT_EQ(Download(ids), expected.ids);
    ExpectSameBits(Download(weights), expected.weights);

    const auto offsets = Allocate<int32_t>(kExperts + 1);
    const auto pairs = Allocate<ExpertRow>(kRows * kTopK);
    Check(SortByExpert(gpu(), ids.data(), kRows, kTopK, kExperts, offsets.data(), pairs.data()));
    EXPECT_EQ(Download(offsets).back(), num_chosen * kTopK);
    for (int i = 0; i < num_chosen * kTopK; ++i) {
      EXPECT_LT(Download(pairs)[i].x_row, num_chosen);
    }
  }
}

TEST_F(CudaRouterTest, TooManyExpertsAreRefused) {
  const absl::Status status =
      RouteTopK(gpu(), nullptr, 1, kMaxExperts + 1, 8, false, nullptr, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaRouterTest, PairsAreSortedByExpertAndStayInTheOrderOfTheirRows) {
  std::mt19937 random(3);
  for (const auto& [num_rows, top_k, num_experts] : std::vector<std::array<int, 3>>{
           {0, 8, 64}, {1, 8, 64}, {50, 8, 64}, {300, 1, 3}, {33, 4, 5}, {1, 1, 1}}) {
    SCOPED_TRACE(std::to_string(num_rows) + ", " + std::to_string(num_experts));
    std::vector<int32_t> ids;
    for (int row = 0; row < num_rows; ++row) {
      std::vector<int32_t> all(num_experts);
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), random);
      std::sort(all.begin(), all.begin() + top_k);
      ids.insert(ids.end(), all.begin(), all.begin() + top_k);
    }
    const int num_pairs = num_rows * top_k;
    const auto device_ids = Upload(ids);
    const auto offsets = Allocate<int32_t>(num_experts + 1);
    const auto rows = Allocate<ExpertRow>(num_pairs);
    Check(SortByExpert(gpu(), device_ids.data(), num_rows, top_k, num_experts, offsets.data(),
                       rows.data()));
    std::vector<int32_t> order(num_pairs);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return ids[a] < ids[b]; });
    const std::vector<ExpertRow> sorted = Download(rows);
    for (int i = 0; i < num_pairs; ++i) {
      ASSERT_EQ(sorted[i].out_row, order[i]);
      ASSERT_EQ(sorted[i].x_row, order[i] / top_k);
    }
    const std::vector<int32_t> bounds = Download(offsets);
    for (int e = 0; e <= num_experts; ++e) {
      ASSERT_EQ(bounds[e],
                std::count_if(ids.begin(), ids.end(), [e](int32_t id) { return id < e; }));
    }
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
