// Tests kernels/cuda/draw.h.
#include "kernels/cuda/draw.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

class CudaDrawTest : public GpuTest {
 protected:
  std::vector<int32_t> Run(const std::vector<float>& logits, int vocab_size,
                           const std::vector<Draw>& draws) {
    const int num_rows = static_cast<int>(draws.size());
    const auto device_logits = Upload(logits);
    const auto stats = Allocate<LogitStats>(num_rows);
    const auto device_draws = Upload(draws);
    const auto tokens = Allocate<int32_t>(num_rows);
    Check(ComputeLogitStats(gpu(), device_logits.data(), num_rows, vocab_size, stats.data()));
    Check(DrawTokens(gpu(), device_logits.data(), num_rows, vocab_size, stats.data(),
                     device_draws.data(), tokens.data()));
    return Download(tokens);
  }
};

TEST_F(CudaDrawTest, DrawsWhereTheSumOfWeightsPassesTheTarget) {
  std::mt19937 random(1);
  for (const int vocab_size :
       kEmulated ? std::vector<int>{1, 37, 1500} : std::vector<int>{1, 37, 1500, 50304}) {
    for (const float temperature : {0.3f, 1.0f, 5.0f}) {
      SCOPED_TRACE(std::to_string(vocab_size) + " at " + std::to_string(temperature));
      std::vector<float> row = RandomFloats(vocab_size, random, 3.0f);
      if (vocab_size > 5) row[3] = -kInfinity;
      const std::vector<double> uniforms = {0.0, 1e-9, 0.1, 0.37, 0.5, 0.9, 0.999, 1 - 0x1p-53};
      std::vector<float> logits;
      std::vector<Draw> draws;
      for (const double uniform : uniforms) {
        logits.insert(logits.end(), row.begin(), row.end());
        draws.push_back({.uniform = uniform, .temperature = temperature});
      }
      const std::vector<int32_t> tokens = Run(logits, vocab_size, draws);
      const double max = *std::max_element(row.begin(), row.end());
      std::vector<double> ends(vocab_size + 1, 0.0);
      for (int i = 0; i < vocab_size; ++i) {
        ends[i + 1] = ends[i] + std::exp((row[i] - max) / temperature);
      }
      for (size_t i = 0; i < uniforms.size(); ++i) {
        ASSERT_GE(tokens[i], 0);
        ASSERT_LT(tokens[i], vocab_size);
        // Weights are fp32, of arguments of up to about 80.
        const double target = uniforms[i] * ends.back();
        const double bound = 100 * kUnit * ends.back();
        EXPECT_LE(ends[tokens[i]], target + bound);
        EXPECT_GE(ends[tokens[i] + 1], target - bound);
        EXPECT_GT(row[tokens[i]], -kInfinity);
      }
    }
  }
}

TEST_F(CudaDrawTest, ZeroTemperatureIsGreedyAndRowsThatAreNotFiniteGetNoToken) {
  constexpr int kVocab = 40;
  std::vector<float> logits(int64_t{3} * kVocab, 0.0f);
  logits[17] = logits[20] = 1.0f;
  logits[kVocab + 2] = kNan;
  logits[2 * kVocab + 39] = 200.0f;
  const std::vector<int32_t> tokens = Run(logits, kVocab, {{0.9, 0.0f}, {0.5, 1.0f}, {0.3, 1.0f}});
  EXPECT_EQ(tokens, (std::vector<int32_t>{17, -1, 39}));
}

TEST_F(CudaDrawTest, OnlyTokensWithAWeightAreDrawn) {
  constexpr int kVocab = 1200;
  std::vector<float> row(kVocab, -kInfinity);
  row[600] = row[605] = 0.0f;
  std::vector<float> logits;
  for (int i = 0; i < 4; ++i) logits.insert(logits.end(), row.begin(), row.end());
  const std::vector<int32_t> tokens =
      Run(logits, kVocab, {{0.0, 1.0f}, {0.49, 1.0f}, {0.5, 1.0f}, {1 - 0x1p-53, 1.0f}});
  EXPECT_EQ(tokens, (std::vector<int32_t>{600, 600, 605, 605}));
}

}  // namespace
}  // namespace moe::kernels::cuda
