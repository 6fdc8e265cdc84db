#include "worker/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/thread_pool.h"
#include "worker/engine/philox.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

v1::SamplingParams Params(float temperature = 1) {
  v1::SamplingParams params;
  params.set_temperature(temperature);
  params.set_top_p(1);
  params.set_repetition_penalty(1);
  params.set_max_tokens(100);
  params.set_num_logprobs(-1);
  params.set_num_prompt_logprobs(-1);
  return params;
}

std::vector<float> RandomLogits(unsigned seed, int vocab_size, float scale = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(static_cast<size_t>(vocab_size));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// What SampleToken documents, in double precision and without shortcuts: the probability of each
// token.
std::vector<double> ReferenceProbabilities(const std::vector<float>& raw,
                                           const v1::SamplingParams& params,
                                           const std::vector<int32_t>& prompt,
                                           const std::vector<int32_t>& generated) {
  const size_t n = raw.size();
  std::vector<double> logits(raw.begin(), raw.end());
  for (size_t i = 0; i < n; ++i) {
    const int32_t token = static_cast<int32_t>(i);
    const auto bias = params.logit_bias().find(token);
    if (bias != params.logit_bias().end()) logits[i] += static_cast<double>(bias->second);
    const auto num_generated = std::count(generated.begin(), generated.end(), token);
    if (num_generated > 0 || std::count(prompt.begin(), prompt.end(), token) > 0) {
      const double penalty = static_cast<double>(params.repetition_penalty());
      logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
    }
    logits[i] -=
        static_cast<double>(params.frequency_penalty()) * static_cast<double>(num_generated);
    if (num_generated > 0) logits[i] -= static_cast<double>(params.presence_penalty());
    const auto& stops = params.stop_token_ids();
    if (generated.size() < params.min_tokens() &&
        std::find(stops.begin(), stops.end(), token) != stops.end()) {
      logits[i] = -std::numeric_limits<double>::infinity();
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights(n, 0);
  const double largest = logits[order[0]];
  size_t num_kept = n;
  if (params.top_k() > 0) num_kept = std::min(n, static_cast<size_t>(params.top_k()));
  double total = 0;
  for (size_t i = 0; i < num_kept; ++i) {
    weights[order[i]] =
        std::exp((logits[order[i]] - largest) / static_cast<double>(params.temperature()));
    total += weights[order[i]];
  }
  double sum = 0;
  for (size_t i = 0; i < num_kept; ++i) {
    if (sum >= static_cast<double>(params.top_p()) * total && i > 0) weights[order[i]] = 0;
    sum += weights[order[i]];
  }
  for (double& weight : weights) {
    if (weight < static_cast<double>(params.min_p())) weight = 0;
  }
  total = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= total;
  return weights;
}

class SamplerTest : public testing::Test {
 protected:
  absl::StatusOr<Sample> Draw(std::vector<float> logits, const v1::SamplingParams& params,
                              const std::vector<int32_t>& prompt = {1},
                              const std::vector<int32_t>& generated = {}) {
    return SampleToken(context_, absl::MakeSpan(logits), params, prompt, generated);
  }
  int32_t DrawToken(const std::vector<float>& logits, const v1::SamplingParams& params,
                    const std::vector<int32_t>& prompt = {1},
                    const std::vector<int32_t>& generated = {}) {
    const auto sample = Draw(logits, params, prompt, generated);
    EXPECT_TRUE(sample.ok()) << sample.status();
    return sample.ok() ? sample->token : -1;
  }

  // Pearson's chi-squared over draws with many seeds; tokens that are expected less than 5 times
  // count as one. Also: a token without probability is never drawn.
  void ExpectDistribution(const std::vector<float>& logits, v1::SamplingParams params,
                          const std::vector<int32_t>& prompt = {1},
                          const std::vector<int32_t>& generated = {}) {
    const std::vector<double> probabilities =
        ReferenceProbabilities(logits, params, prompt, generated);
    constexpr int kNumDraws = 20000;
    std::vector<int> counts(logits.size(), 0);
    for (int seed = 0; seed < kNumDraws; ++seed) {
      params.set_seed(static_cast<uint64_t>(seed) * 0x9e3779b97f4a7c15u);
      const int32_t token = DrawToken(logits, params, prompt, generated);
      ASSERT_GE(token, 0);
      ASSERT_GT(probabilities[token], 0) << "token " << token << " can't be drawn";
      ++counts[token];
    }
    double chi_squared = 0;
    int num_cells = 0;
    double rest_expected = 0;
    int rest_count = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double expected = probabilities[i] * kNumDraws;
      if (expected < 5) {
        rest_expected += expected;
        rest_count += counts[i];
        continue;
      }
      chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++num_cells;
    }
    if (rest_expected >= 5) {
      chi_squared += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
      ++num_cells;
    }
    // Wilson and Hilferty 1931: the cube root of chi-squared / freedom is nearly normal. 4 sigma:
    // the seeds are fixed, so this either holds for ever or shows a wrong distribution.
    const double freedom = std::max(1, num_cells - 1);
    const double spread = 2 / (9 * freedom);
    const double z = (std::cbrt(chi_squared / freedom) - (1 - spread)) / std::sqrt(spread);
    EXPECT_LT(z, 4) << "chi-squared " << chi_squared << " with freedom " << freedom;
  }

  kernels::ThreadPool pool_{kernels::ThreadPool::Options{}};
  kernels::Context context_ = {.level = kernels::DetectCpuLevel(), .pool = &pool_};
};

TEST(PhiloxTest, GivesTheAuthorsKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(
      Philox4x32({0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}, {0xffffffffu, 0xffffffffu}),
      ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(
      Philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
      ElementsAre(0xd16cfe09u, 0x94fdcceb, 0x5001e420u, 0x24126ea1u));
}

TEST(UniformDrawTest, DependsOnSeedChoiceAndPositionAlone) {
  EXPECT_EQ(UniformDraw(1, 2, 3), UniformDraw(1, 2, 3));
  std::set<double> values;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (uint32_t choice = 0; choice < 4; ++choice) {
      for (uint32_t position = 0; position < 4; ++position) {
        values.insert(UniformDraw(seed, choice, position));
      }
    }
  }
  EXPECT_EQ(values.size(), 64u);
}

TEST(UniformDrawTest, IsUniform) {
  constexpr int kNumDraws = 100000;
  std::vector<int> counts(100, 0);
  for (uint32_t position = 0; position < kNumDraws; ++position) {
    const double u = UniformDraw(42, 0, position);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    EXPECT_EQ(std::ldexp(u, 53), std::floor(std::ldexp(u, 53)));
    ++counts[static_cast<size_t>(u * 100)];
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 160);  // 5 sigma
}

TEST_F(SamplerTest, GreedyTakesTheLargestAndTheLowestIdOfEqualOnes) {
  EXPECT_EQ(DrawToken({0, 3, 1, 3, 2}, Params(0)), 1);
  std::vector<float> flat(50304, -2);
  EXPECT_EQ(DrawToken(flat, Params(0)), 0);
  flat[40000] = flat[50303] = 1;
  EXPECT_EQ(DrawToken(flat, Params(0)), 40000);
}

TEST_F(SamplerTest, TopKOfOneIsGreedyAtAnyTemperature) {
  std::vector<float> logits = RandomLogits(1, 5000);
  // Two logits so close that their weights are equal.
  const auto best = std::max_element(logits.begin(), logits.end());
  logits[0] = std::nextafter(*best, -kInfinity);
  v1::SamplingParams params = Params(50);
  params.set_top_k(1);
  const int32_t greedy = DrawToken(logits, Params(0));
  for (uint64_t seed = 0; seed < 50; ++seed) {
    params.set_seed(seed);
    EXPECT_EQ(DrawToken(logits, params), greedy);
  }
}

TEST_F(SamplerTest, ATinyTemperatureOrNucleusIsGreedy) {
  const std::vector<float> logits = RandomLogits(2, 5000);
  const int32_t greedy = DrawToken(logits, Params(0));
  v1::SamplingParams tiny_nucleus = Params(1);
  tiny_nucleus.set_top_p(1e-6f);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (const float temperature : {1e-4f, 1e-6f, 1e-30f, 1e-44f}) {
      v1::SamplingParams params = Params(temperature);
      params.set_seed(seed);
      EXPECT_EQ(DrawToken(logits, params), greedy) << temperature;
    }
    tiny_nucleus.set_seed(seed);
    EXPECT_EQ(DrawToken(logits, tiny_nucleus), greedy);
  }
}

struct DistributionCase {
  std::string name;
  int vocab_size;
  std::function<void(v1::SamplingParams&)> change;
};

class DistributionTest : public SamplerTest,
                         public testing::WithParamInterface<DistributionCase> {};

TEST_P(DistributionTest, IsTheReferences) {
  v1::SamplingParams params = Params(1);
  GetParam().change(params);
  ExpectDistribution(RandomLogits(7, GetParam().vocab_size), params, {1, 2, 3}, {3, 4, 4});
}

INSTANTIATE_TEST_SUITE_P(
    Parameters, DistributionTest,
    testing::Values(
        DistributionCase{"plain", 200, [](auto&) {}},
        DistributionCase{"more_than_a_block", 1500, [](auto& p) { p.set_temperature(2); }},
        DistributionCase{"cold", 200, [](auto& p) { p.set_temperature(0.3f); }},
        DistributionCase{"hot", 200, [](auto& p) { p.set_temperature(10); }},
        DistributionCase{"top_k", 200, [](auto& p) { p.set_top_k(5); }},
        DistributionCase{"top_k_beyond_the_vocabulary", 200, [](auto& p) { p.set_top_k(1000); }},
        DistributionCase{"top_p", 200, [](auto& p) { p.set_top_p(0.8f); }},
        DistributionCase{"top_p_with_a_wide_nucleus", 1500,
                         [](auto& p) {
                           p.set_top_p(0.95f);
                           p.set_temperature(10);
                         }},
        DistributionCase{"min_p", 200, [](auto& p) { p.set_min_p(0.05f); }},
        DistributionCase{"top_k_top_p_and_min_p", 200,
                         [](auto& p) {
                           p.set_top_k(20);
                           p.set_top_p(0.9f);
                           p.set_min_p(0.02f);
                           p.set_temperature(1.5f);
                         }},
        DistributionCase{"frequency_and_presence", 20,
                         [](auto& p) {
                           p.set_frequency_penalty(0.7f);
                           p.set_presence_penalty(-0.5f);
                         }},
        DistributionCase{"repetition", 20, [](auto& p) { p.set_repetition_penalty(1.8f); }},
        DistributionCase{"bias", 20,
                         [](auto& p) {
                           (*p.mutable_logit_bias())[5] = 2;
                           (*p.mutable_logit_bias())[6] = -1.5f;
                         }},
        DistributionCase{"stop_tokens_before_min_tokens", 20,
                         [](auto& p) {
                           p.set_min_tokens(4);
                           p.add_stop_token_ids(2);
                           p.add_stop_token_ids(9);
                         }},
        DistributionCase{"stop_tokens_after_min_tokens", 20,
                         [](auto& p) {
                           p.set_min_tokens(3);
                           p.add_stop_token_ids(2);
                           p.add_stop_token_ids(9);
                         }}),
    [](const auto& tested) { return tested.param.name; });

TEST(PlainDrawTest, IsThereWhereNothingButTheLogitsIsLookedAt) {
  struct Case {
    const char* what;
    bool plain;
    std::function<void(v1::SamplingParams*)> change;
    size_t num_generated = 3;
  };
  for (const Case& c : std::vector<Case>{
           {"as it is", true, [](v1::SamplingParams*) {}},
           {"greedy", true, [](v1::SamplingParams* p) { p->set_temperature(0); }},
           {"greedy, whatever the nucleus", true,
            [](v1::SamplingParams* p) {
              p->set_temperature(1e-6F);
              p->set_top_k(3);
              p->set_top_p(0.5F);
            }},
           {"top-k of all", true, [](v1::SamplingParams* p) { p->set_top_k(50); }},
           {"top-k", false, [](v1::SamplingParams* p) { p->set_top_k(49); }},
           {"top-p", false, [](v1::SamplingParams* p) { p->set_top_p(0.9F); }},
           {"min-p", false, [](v1::SamplingParams* p) { p->set_min_p(0.1F); }},
           {"bias", false, [](v1::SamplingParams* p) { (*p->mutable_logit_bias())[3] = 1; }},
           {"greedy with bias", false,
            [](v1::SamplingParams* p) {
              p->set_temperature(0);
              (*p->mutable_logit_bias())[3] = 1;
            }},
           {"frequency", false, [](v1::SamplingParams* p) { p->set_frequency_penalty(0.1F); }},
           {"presence", false, [](v1::SamplingParams* p) { p->set_presence_penalty(0.1F); }},
           {"repetition", false, [](v1::SamplingParams* p) { p->set_repetition_penalty(2); }},
           {"before min_tokens", false, [](v1::SamplingParams* p) { p->set_min_tokens(4); }},
           {"after min_tokens", true, [](v1::SamplingParams* p) { p->set_min_tokens(3); }}}) {
    SCOPED_TRACE(c.what);
    v1::SamplingParams params = Params(0.5F);
    params.set_seed(11);
    params.set_choice(2);
    c.change(&params);
    const auto draw = AsPlainDraw(params, c.num_generated, /*vocab_size=*/50);
    ASSERT_EQ(draw.has_value(), c.plain);
    if (!c.plain) continue;
    const bool greedy = params.temperature() < 1e-5F;
    EXPECT_EQ(draw->temperature, greedy ? 0.0F : 0.5F);
    if (!greedy) {
      EXPECT_EQ(draw->uniform, UniformDraw(11, 2, 3));
    }
  }
}

TEST_F(SamplerTest, TopKKeepsTheLowestIdsOfEqualLogits) {
  std::vector<float> logits(100, -5);
  for (const int i : {90, 10, 50, 70}) logits[i] = 1;
  v1::SamplingParams params = Params(1);
  params.set_top_k(2);
  std::set<int32_t> drawn;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    params.set_seed(seed);
    drawn.insert(DrawToken(logits, params));
  }
  EXPECT_THAT(drawn, ElementsAre(10, 50));
}

TEST_F(SamplerTest, TopPKeepsTheLowestIdsOfEqualLogitsHoweverMany) {
  const std::vector<float> logits(50304, 0.5f);
  v1::SamplingParams params = Params(1);
  params.set_top_p(0.25f);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    params.set_seed(seed);
    EXPECT_LT(DrawToken(logits, params), 50304 / 4);
  }
}

TEST_F(SamplerTest, TopKLargerThanTheHeapEqualsTheSmallOne) {
  // The same 3000 likeliest, once of 3001 (a selection) and once alone.
  std::vector<float> logits = RandomLogits(3, 20000);
  v1::SamplingParams params = Params(5);
  params.set_top_k(3000);
  const std::vector<double> probabilities = ReferenceProbabilities(logits, params, {}, {});
  for (uint64_t seed = 0; seed < 300; ++seed) {
    params.set_seed(seed);
    EXPECT_GT(probabilities[DrawToken(logits, params)], 0);
  }
}

TEST_F(SamplerTest, ABiasOf100ForcesAndOfMinus100Bans) {
  const std::vector<float> logits = RandomLogits(4, 1000);
  v1::SamplingParams params = Params(1);
  (*params.mutable_logit_bias())[17] = 100;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    params.set_seed(seed);
    EXPECT_EQ(DrawToken(logits, params), 17);
  }
  const int32_t greedy = DrawToken(logits, Params(0));
  v1::SamplingParams banned = Params(0);
  (*banned.mutable_logit_bias())[greedy] = -100;
  EXPECT_NE(DrawToken(logits, banned), greedy);
}

TEST_F(SamplerTest, PenaltiesMoveTheGreedyTokenAsTheReferenceSays) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const std::vector<float> logits = RandomLogits(seed, 30);
    std::vector<int32_t> prompt(20), generated(20);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 30);
    for (int32_t& token : generated) token = static_cast<int32_t>(random() % 30);
    v1::SamplingParams params = Params(0);
    params.set_frequency_penalty(static_cast<float>(random() % 400) / 100 - 2);
    params.set_presence_penalty(static_cast<float>(random() % 400) / 100 - 2);
    params.set_repetition_penalty(static_cast<float>(random() % 200 + 10) / 100);
    v1::SamplingParams reference = params;
    reference.set_temperature(1);
    reference.set_top_p(1);
    const auto probabilities = ReferenceProbabilities(logits, reference, prompt, generated);
    const auto best = std::max_element(probabilities.begin(), probabilities.end());
    EXPECT_EQ(DrawToken(logits, params, prompt, generated), best - probabilities.begin());
  }
}

TEST_F(SamplerTest, LogprobsAreThoseOfTheRawLogits) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::vector<float> logits = RandomLogits(seed, 50304, 4);
    double sum = 0;
    const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
    const double log_sum = std::log(sum) + largest;
    v1::SamplingParams params = Params(0.7f);
    params.set_seed(seed);
    params.set_num_logprobs(5);
    params.set_repetition_penalty(3);
    (*params.mutable_logit_bias())[100] = 100;
    const auto sample = Draw(logits, params, {1, 2}, {3});
    ASSERT_TRUE(sample.ok()) << sample.status();
    EXPECT_EQ(sample->token, 100);
    // An fp32 Exp within 2 ulp and sums in 16 lanes: relative error of the sum below 1e-5.
    EXPECT_NEAR(sample->logprobs.chosen, static_cast<double>(logits[100]) - log_sum, 2e-5);
    ASSERT_EQ(sample->logprobs.top.size(), 5u);
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + 5, order.end(), [&](int32_t a, int32_t b) {
      return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    });
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(sample->logprobs.top[i].first, order[i]);
      EXPECT_NEAR(sample->logprobs.top[i].second, static_cast<double>(logits[order[i]]) - log_sum,
                  2e-5);
    }
    const auto prompt_logprobs = ComputeLogprobs(context_, logits, 100, 5);
    ASSERT_TRUE(prompt_logprobs.ok());
    EXPECT_EQ(prompt_logprobs->chosen, sample->logprobs.chosen);
    EXPECT_EQ(prompt_logprobs->top, sample->logprobs.top);
  }
}

TEST_F(SamplerTest, LogprobsOfEqualLogitsComeByLowestId) {
  const auto logprobs = ComputeLogprobs(context_, {1, 2, 2, 2, 1}, 0, 3);
  ASSERT_TRUE(logprobs.ok());
  EXPECT_EQ(logprobs->top[0].first, 1);
  EXPECT_EQ(logprobs->top[1].first, 2);
  EXPECT_EQ(logprobs->top[2].first, 3);
}

TEST_F(SamplerTest, ZeroLogprobsGiveTheChosenAlone) {
  v1::SamplingParams params = Params(0);
  params.set_num_logprobs(0);
  const auto sample = Draw({1, 2, 3}, params);
  ASSERT_TRUE(sample.ok());
  EXPECT_TRUE(sample->logprobs.top.empty());
  EXPECT_LT(sample->logprobs.chosen, 0);
}

TEST_F(SamplerTest, AskingForLogprobsNeverChangesTheToken) {
  const std::vector<float> logits = RandomLogits(5, 2000);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    v1::SamplingParams params = Params(1);
    params.set_seed(seed);
    if (seed % 2 == 0) params.set_top_p(0.9f);
    const int32_t without = DrawToken(logits, params);
    params.set_num_logprobs(3);
    EXPECT_EQ(DrawToken(logits, params), without);
  }
}

TEST_F(SamplerTest, TheTokenDependsOnThePositionAndNotOnTheLevel) {
  const std::vector<float> logits = RandomLogits(6, 50304);
  std::set<int32_t> drawn;
  for (int position = 0; position < 20; ++position) {
    const std::vector<int32_t> generated(static_cast<size_t>(position), 5);
    v1::SamplingParams params = Params(1.3f);
    params.set_seed(9);
    const int32_t token = DrawToken(logits, params, {1}, generated);
    drawn.insert(token);
    for (int level = 0; level <= static_cast<int>(kernels::DetectCpuLevel()); ++level) {
      std::vector<float> copy = logits;
      const kernels::Context context = {.level = static_cast<kernels::CpuLevel>(level),
                                        .pool = &pool_};
      const auto sample = SampleToken(context, absl::MakeSpan(copy), params, {1}, generated);
      ASSERT_TRUE(sample.ok());
      EXPECT_EQ(sample->token, token);
    }
  }
  EXPECT_GT(drawn.size(), 10u);
}

TEST_F(SamplerTest, LogitsThatAreNotFiniteAreAnError) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const size_t where : {size_t{0}, size_t{700}, size_t{999}}) {
      for (const int num_logprobs : {-1, 2}) {
        for (const float temperature : {0.0f, 1.0f}) {
          std::vector<float> logits = RandomLogits(8, 1000);
          logits[where] = bad;
          v1::SamplingParams params = Params(temperature);
          params.set_num_logprobs(num_logprobs);
          const auto sample = Draw(logits, params);
          EXPECT_EQ(sample.status().code(), absl::StatusCode::kInvalidArgument);
          EXPECT_THAT(std::string(sample.status().message()), HasSubstr("not finite"));
          EXPECT_FALSE(ComputeLogprobs(context_, logits, 3, 2).ok());
        }
      }
    }
  }
}

TEST_F(SamplerTest, ABannedTokenInTheRawLogitsIsNeverDrawn) {
  std::vector<float> logits(64, -kInfinity);
  logits[40] = -1000;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    v1::SamplingParams params = Params(1);
    params.set_seed(seed);
    EXPECT_EQ(DrawToken(logits, params), 40);
    params.set_top_p(0.5f);
    EXPECT_EQ(DrawToken(logits, params), 40);
    params.set_top_k(10);
    EXPECT_EQ(DrawToken(logits, params), 40);
  }
}

TEST_F(SamplerTest, NothingToDrawIsAnError) {
  EXPECT_FALSE(Draw(std::vector<float>(10, -kInfinity), Params(1)).ok());
  v1::SamplingParams params = Params(1);
  params.set_min_tokens(1);
  params.add_stop_token_ids(0);
  params.add_stop_token_ids(1);
  EXPECT_FALSE(Draw({1, 2}, params).ok());
  EXPECT_FALSE(Draw({}, Params(1)).ok());
}

TEST_F(SamplerTest, NumbersThatOverflowAreAnErrorAndNeverACrash) {
  v1::SamplingParams params = Params(1);
  params.set_repetition_penalty(1e-38f);
  EXPECT_FALSE(Draw({1e5f, 2, 3}, params, {0}).ok());
  params = Params(1);
  (*params.mutable_logit_bias())[1] = 3e38f;
  EXPECT_FALSE(Draw({1, 3e38f, 3}, params).ok());
  params = Params(1);
  (*params.mutable_logit_bias())[3] = 1;
  EXPECT_FALSE(Draw({1, 2, 3}, params).ok());
  params = Params(1);
  params.set_frequency_penalty(1);
  EXPECT_FALSE(Draw({1, 2, 3}, params, {1}, {-1}).ok());
  EXPECT_FALSE(ComputeLogprobs(context_, {1, 2}, 2, 0).ok());
  EXPECT_FALSE(ComputeLogprobs(context_, {1, 2}, -1, 0).ok());
}

}  // namespace
}  // namespace moe::engine
