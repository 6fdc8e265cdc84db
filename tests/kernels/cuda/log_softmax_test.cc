// Tests kernels/cuda/log_softmax.h.
#include "kernels/cuda/log_softmax.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/log_softmax.h"
#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

class CudaLogSoftmaxTest : public GpuTest {
 protected:
  static std::vector<int> Vocabularies() {
    return kEmulated ? std::vector<int>{1, 37, 1500} : std::vector<int>{1, 37, 1500, 50304};
  }
  std::vector<LogitStats> Stats(const device::DeviceBuffer<float>& logits, int num_rows,
                                int vocab_size, device::DeviceBuffer<LogitStats>* stats) {
    *stats = Allocate<LogitStats>(num_rows);
    Check(ComputeLogitStats(gpu(), logits.data(), num_rows, vocab_size, stats->data()));
    return Download(*stats);
  }
};

TEST_F(CudaLogSoftmaxTest, StatsAreCloseToTheCpus) {
  std::mt19937 random(1);
  for (const int vocab_size : Vocabularies()) {
    constexpr int kRows = 3;
    std::vector<float> logits = RandomFloats(int64_t{kRows} * vocab_size, random, 3.0f);
    if (vocab_size > 1) logits[vocab_size] = -kInfinity;
    device::DeviceBuffer<LogitStats> stats;
    const std::vector<LogitStats> actual = Stats(Upload(logits), kRows, vocab_size, &stats);
    for (int row = 0; row < kRows; ++row) {
      const float* values = logits.data() + int64_t{row} * vocab_size;
      const LogSumExp expected = ComputeLogSumExp(cpu(), values, vocab_size);
      EXPECT_EQ(actual[row].max, expected.max);
      EXPECT_EQ(actual[row].finite, 1);
      EXPECT_EQ(actual[row].token, std::max_element(values, values + vocab_size) - values);
      // exp: some units on each side, of arguments rounded at up to 32; sums of vocab / 1024 + 37
      // and vocab / 16 + 4 roundings. The logarithm turns relative into absolute errors.
      EXPECT_NEAR(actual[row].log_sum_exp, expected.log_sum_exp,
                  kUnit * (vocab_size / 16.0 + vocab_size / 1024.0 + 41 + 80));
    }
  }
}

TEST_F(CudaLogSoftmaxTest, RowsThatAreNotFiniteSaySo) {
  constexpr int kVocab = 50;
  std::vector<float> logits(int64_t{4} * kVocab, 0.5f);
  logits[3] = kNan;
  logits[kVocab + 49] = kInfinity;
  std::fill_n(logits.begin() + 2 * kVocab, kVocab, -kInfinity);
  const auto device_logits = Upload(logits);
  device::DeviceBuffer<LogitStats> stats;
  const std::vector<LogitStats> actual = Stats(device_logits, 4, kVocab, &stats);
  for (int row = 0; row < 3; ++row) {
    EXPECT_EQ(actual[row].finite, 0) << row;
    EXPECT_EQ(actual[row].token, -1) << row;
    EXPECT_TRUE(std::isnan(actual[row].log_sum_exp)) << row;
  }
  EXPECT_EQ(actual[3].finite, 1);
  EXPECT_EQ(actual[3].token, 0) << "ties go to the lowest id";

  const auto chosen = Allocate<TokenLogprob>(4);
  const auto top = Allocate<TokenLogprob>(int64_t{4} * 2);
  Check(ComputeLogprobs(gpu(), device_logits.data(), 4, kVocab, stats.data(), nullptr, 2,
                        chosen.data(), top.data()));
  const std::vector<TokenLogprob> of_chosen = Download(chosen);
  const std::vector<TokenLogprob> of_top = Download(top);
  EXPECT_EQ(of_chosen[0].token, -1);
  EXPECT_EQ(of_top[5].token, -1);
  EXPECT_EQ(of_chosen[3].token, 0);
  EXPECT_EQ(of_top[6].token, 0);
  EXPECT_EQ(of_top[7].token, 1);
}

TEST_F(CudaLogSoftmaxTest, LogprobsAreThoseOfTheStatsLikeliestFirst) {
  std::mt19937 random(2);
  for (const int vocab_size : Vocabularies()) {
    constexpr int kRows = 2;
    constexpr int kTop = 5;
    // Few different values, so that there are ties; some tokens are banned.
    std::vector<float> logits(int64_t{kRows} * vocab_size);
    for (float& value : logits) {
      value = random() % 5 == 0 ? -kInfinity : static_cast<float>(random() % 40) * 0.25f;
    }
    logits[0] = logits[vocab_size] = 1.0f;
    const auto device_logits = Upload(logits);
    device::DeviceBuffer<LogitStats> device_stats;
    const std::vector<LogitStats> stats = Stats(device_logits, kRows, vocab_size, &device_stats);
    const std::vector<int32_t> tokens = {0, vocab_size - 1};
    const auto device_tokens = Upload(tokens);
    const auto chosen = Allocate<TokenLogprob>(kRows);
    const auto top = Allocate<TokenLogprob>(int64_t{kRows} * kTop);
    Check(ComputeLogprobs(gpu(), device_logits.data(), kRows, vocab_size, device_stats.data(),
                          device_tokens.data(), kTop, chosen.data(), top.data()));
    const std::vector<TokenLogprob> of_chosen = Download(chosen);
    const std::vector<TokenLogprob> of_top = Download(top);
    for (int row = 0; row < kRows; ++row) {
      const float* values = logits.data() + int64_t{row} * vocab_size;
      const auto logprob = [&](int32_t token) {
        return static_cast<float>(static_cast<double>(values[token]) - stats[row].log_sum_exp);
      };
      EXPECT_EQ(of_chosen[row].token, tokens[row]);
      EXPECT_EQ(of_chosen[row].logprob, logprob(tokens[row]));
      std::vector<int32_t> order;
      for (int token = 0; token < vocab_size; ++token) {
        if (values[token] > -kInfinity) order.push_back(token);
      }
      std::stable_sort(order.begin(), order.end(),
                       [values](int32_t a, int32_t b) { return values[a] > values[b]; });
      for (int k = 0; k < kTop; ++k) {
        const TokenLogprob& actual = of_top[int64_t{row} * kTop + k];
        if (k < static_cast<int>(order.size())) {
          ASSERT_EQ(actual.token, order[k]);
          ASSERT_EQ(actual.logprob, logprob(order[k]));
        } else {
          ASSERT_EQ(actual.token, -1);
        }
      }
    }
  }
}

}  // namespace
}  // namespace moe::kernels::cuda
