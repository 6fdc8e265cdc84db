#include "worker/engine/request_check.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::engine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr RequestLimits kLimits = {
    .max_context = 30, .vocab_size = 100, .max_logprobs = 5, .kv_tokens_per_owner = 24};

v1::Submit Good() {
  v1::Submit submit;
  submit.set_request(5);
  for (int i = 0; i < 10; ++i) submit.add_prompt_tokens(i);
  v1::SamplingParams* sampling = submit.mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  sampling->set_max_tokens(10);
  sampling->set_num_logprobs(-1);
  sampling->set_num_prompt_logprobs(-1);
  return submit;
}

struct Case {
  std::string name;
  std::function<void(v1::Submit&, v1::SamplingParams&)> change;
  v1::Rejected::Reason reason;  // REASON_UNSPECIFIED: it passes
  std::string message;
};

constexpr auto kPasses = v1::Rejected::REASON_UNSPECIFIED;
constexpr auto kInvalid = v1::Rejected::INVALID;
constexpr auto kTooLong = v1::Rejected::TOO_LONG;

std::vector<Case> Cases() {
  return {
      {"a good request passes", [](auto&, auto&) {}, kPasses, ""},
      {"an empty prompt", [](auto& r, auto&) { r.clear_prompt_tokens(); }, kInvalid, "empty"},
      {"a negative prompt token", [](auto& r, auto&) { r.set_prompt_tokens(3, -1); }, kInvalid,
       "token -1"},
      {"a prompt token at the width of the logits",
       [](auto& r, auto&) { r.set_prompt_tokens(3, 100); }, kInvalid, "token 100"},
      {"the largest token passes", [](auto& r, auto&) { r.set_prompt_tokens(3, 99); }, kPasses, ""},
      {"a generated token that is none", [](auto& r, auto&) { r.add_generated_tokens(100); },
       kInvalid, "generated_tokens"},
      {"a prompt that fills the context",
       [](auto& r, auto&) { r.mutable_prompt_tokens()->Resize(30, 1); }, kTooLong, "30 tokens"},
      {"prompt and output that overflow the cache", [](auto&, auto& s) { s.set_max_tokens(15); },
       kTooLong, "25 tokens, but it holds 24"},
      {"prompt and output that just fit", [](auto&, auto& s) { s.set_max_tokens(14); }, kPasses,
       ""},
      {"the largest max_tokens counts only to the context",
       [](auto&, auto& s) { s.set_max_tokens(4294967295u); }, kTooLong, "30 tokens"},
      {"no output", [](auto&, auto& s) { s.set_max_tokens(0); }, kInvalid, "max_tokens"},
      {"min_tokens above max_tokens", [](auto&, auto& s) { s.set_min_tokens(11); }, kInvalid,
       "min_tokens"},
      {"a temperature that is no number", [](auto&, auto& s) { s.set_temperature(std::nanf("")); },
       kInvalid, "temperature"},
      {"a negative temperature", [](auto&, auto& s) { s.set_temperature(-0.1f); }, kInvalid,
       "temperature"},
      {"an infinite temperature", [](auto&, auto& s) { s.set_temperature(kInfinity); }, kInvalid,
       "temperature"},
      {"temperature 0 passes", [](auto&, auto& s) { s.set_temperature(0); }, kPasses, ""},
      {"top_p 0", [](auto&, auto& s) { s.set_top_p(0); }, kInvalid, "top_p"},
      {"top_p above 1", [](auto&, auto& s) { s.set_top_p(1.1f); }, kInvalid, "top_p"},
      {"top_p that is no number", [](auto&, auto& s) { s.set_top_p(std::nanf("")); }, kInvalid,
       "top_p"},
      {"a negative top_k", [](auto&, auto& s) { s.set_top_k(-1); }, kInvalid, "top_k"},
      {"top_k above the vocabulary passes", [](auto&, auto& s) { s.set_top_k(2147483647); },
       kPasses, ""},
      {"min_p above 1", [](auto&, auto& s) { s.set_min_p(1.5f); }, kInvalid, "min_p"},
      {"an infinite frequency_penalty", [](auto&, auto& s) { s.set_frequency_penalty(kInfinity); },
       kInvalid, "frequency_penalty"},
      {"a presence_penalty that is no number",
       [](auto&, auto& s) { s.set_presence_penalty(std::nanf("")); }, kInvalid, "presence_penalty"},
      {"repetition_penalty 0", [](auto&, auto& s) { s.set_repetition_penalty(0); }, kInvalid,
       "repetition_penalty"},
      {"an infinite repetition_penalty",
       [](auto&, auto& s) { s.set_repetition_penalty(kInfinity); }, kInvalid, "repetition_penalty"},
      {"a bias of a token that is none", [](auto&, auto& s) { (*s.mutable_logit_bias())[100] = 1; },
       kInvalid, "logit_bias"},
      {"a bias of a negative token", [](auto&, auto& s) { (*s.mutable_logit_bias())[-1] = 1; },
       kInvalid, "logit_bias"},
      {"an infinite bias", [](auto&, auto& s) { (*s.mutable_logit_bias())[1] = -kInfinity; },
       kInvalid, "logit_bias"},
      {"a stop token that is none", [](auto&, auto& s) { s.add_stop_token_ids(-5); }, kInvalid,
       "stop_token_ids"},
      {"too many logprobs", [](auto&, auto& s) { s.set_num_logprobs(6); }, kInvalid,
       "num_logprobs"},
      {"logprobs below none", [](auto&, auto& s) { s.set_num_logprobs(-2); }, kInvalid,
       "num_logprobs"},
      {"too many prompt logprobs", [](auto&, auto& s) { s.set_num_prompt_logprobs(1000000); },
       kInvalid, "num_prompt_logprobs"},
      {"a request that continues passes",
       [](auto& r, auto&) { r.mutable_generated_tokens()->Resize(9, 50); }, kPasses, ""},
      {"as many generated tokens as max_tokens",
       [](auto& r, auto&) { r.mutable_generated_tokens()->Resize(10, 50); }, kInvalid,
       "already has 10"},
      {"a stop token among the generated",
       [](auto& r, auto&) { r.mutable_generated_tokens()->Resize(2, 77); }, kInvalid,
       "stop token 77"},
      {"the stop token in the prompt passes", [](auto& r, auto&) { r.set_prompt_tokens(0, 77); },
       kPasses, ""},
      {"generated tokens that fill the context",
       [](auto& r, auto& s) {
         r.mutable_prompt_tokens()->Resize(20, 1);
         r.mutable_generated_tokens()->Resize(10, 1);
         s.set_max_tokens(20);
       },
       kTooLong, "30 tokens"},
  };
}

class CheckRequestTest : public testing::TestWithParam<Case> {};

TEST_P(CheckRequestTest, SaysWhy) {
  v1::Submit submit = Good();
  GetParam().change(submit, *submit.mutable_sampling());
  const auto rejected = CheckRequest(submit, kLimits, StopTokens(submit.sampling(), {77}));
  if (GetParam().reason == kPasses) {
    EXPECT_FALSE(rejected.has_value()) << rejected->message();
    return;
  }
  ASSERT_TRUE(rejected.has_value());
  EXPECT_EQ(rejected->request(), 5u);
  EXPECT_EQ(rejected->reason(), GetParam().reason) << rejected->message();
  EXPECT_THAT(rejected->message(), HasSubstr(GetParam().message));
}

std::string TestName(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
      '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Requests, CheckRequestTest, testing::ValuesIn(Cases()), TestName);

TEST(CheckRequestContextTest, GeneratedTokensThatFillTheContextCannotGoOn) {
  v1::Submit submit = Good();
  submit.mutable_generated_tokens()->Resize(20, 1);
  submit.mutable_sampling()->set_max_tokens(25);
  RequestLimits limits = kLimits;
  limits.kv_tokens_per_owner = 1000;
  const auto rejected = CheckRequest(submit, limits, {});
  ASSERT_TRUE(rejected.has_value());
  EXPECT_EQ(rejected->reason(), kInvalid);
}

TEST(StopTokensTest, AreSortedAndHoldTheModelsUnlessIgnored) {
  v1::SamplingParams sampling;
  EXPECT_THAT(StopTokens(sampling, {}), IsEmpty());
  sampling.add_stop_token_ids(9);
  sampling.add_stop_token_ids(4);
  EXPECT_THAT(StopTokens(sampling, {7, 4}), ElementsAre(4, 7, 9));
  sampling.set_ignore_eos(true);
  EXPECT_THAT(StopTokens(sampling, {7, 4}), ElementsAre(9));
}

}  // namespace
}  // namespace moe::engine
