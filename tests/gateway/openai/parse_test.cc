// Tests gateway/openai/parse.h and strict_json.h.
#include "gateway/openai/parse.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/testing/bad_bodies.h"

namespace moe::gateway {
namespace {

using testing::BadBody;
using testing::BadChatBodies;
using testing::BadCompletionBodies;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ParseLimits Limits() {
  ParseLimits limits;
  limits.vocab_size = 1000;
  return limits;
}

// A completion request with more fields.
std::string With(const std::string& fields) { return R"({"prompt": "hi", )" + fields + "}"; }

TEST(ParseCompletionTest, RefusesBadInputAndNamesTheField) {
  for (const BadBody& input : BadCompletionBodies(Limits().vocab_size)) {
    SCOPED_TRACE(input.sentence);
    CompletionRequest request;
    const std::optional<ApiError> error = ParseCompletionRequest(input.body, Limits(), &request);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->status, 400);
    EXPECT_EQ(error->type, "invalid_request_error");
    EXPECT_EQ(error->param, input.param) << error->message;
    EXPECT_FALSE(error->message.empty());
    EXPECT_LT(error->message.size(), 500U);
  }
}

TEST(ParseChatTest, RefusesBadInputAndNamesTheField) {
  for (const BadBody& input : BadChatBodies()) {
    SCOPED_TRACE(input.sentence);
    ChatRequest request;
    const std::optional<ApiError> error = ParseChatRequest(input.body, Limits(), &request);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->status, 400);
    EXPECT_EQ(error->param, input.param) << error->message;
  }
}

TEST(ParseCompletionTest, ReadsEveryParameter) {
  CompletionRequest request;
  const auto error = ParseCompletionRequest(
      R"({"model": "m", "prompt": ["a", "b"], "max_tokens": 7, "min_tokens": 2, "temperature": 0.5,
          "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -3, "stop": ["x", "y"], "n": 3,
          "best_of": 3, "echo": true, "logprobs": 5, "logit_bias": {"7": -100, "9": 2.5},
          "frequency_penalty": 0.25, "presence_penalty": -0.5, "repetition_penalty": 1.1,
          "ignore_eos": true, "stop_token_ids": [4], "stream": true,
          "stream_options": {"include_usage": true, "continuous_usage_stats": true},
          "user": "someone", "x_unknown": [1, 2, {"a": null}]})",
      Limits(), &request);
  ASSERT_FALSE(error.has_value()) << error->message;
  EXPECT_EQ(request.model, "m");
  ASSERT_EQ(request.prompts.size(), 2U);
  EXPECT_EQ(request.prompts[1].text, "b");
  EXPECT_EQ(request.sampling.max_tokens, 7);
  EXPECT_EQ(request.sampling.min_tokens, 2);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 0.9);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.min_p, 0.1);
  EXPECT_EQ(request.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_THAT(request.sampling.stop, ElementsAre("x", "y"));
  EXPECT_EQ(request.sampling.n, 3);
  EXPECT_TRUE(request.echo);
  EXPECT_EQ(request.logprobs, 5);
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(std::pair<int32_t, float>(7, -100.0F),
                                                       std::pair<int32_t, float>(9, 2.5F)));
  EXPECT_EQ(request.sampling.frequency_penalty, 0.25);
  EXPECT_EQ(request.sampling.presence_penalty, -0.5);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.1);
  EXPECT_TRUE(request.sampling.ignore_eos);
  EXPECT_THAT(request.sampling.stop_token_ids, ElementsAre(4));
  EXPECT_TRUE(request.streaming.stream);
  EXPECT_TRUE(request.streaming.include_usage);
  EXPECT_TRUE(request.streaming.continuous_usage_stats);
}

TEST(ParseCompletionTest, ReadsTokenIdsAndListsOfThem) {
  CompletionRequest one;
  ASSERT_FALSE(ParseCompletionRequest(R"({"prompt": [1, 2, 999]})", Limits(), &one).has_value());
  ASSERT_EQ(one.prompts.size(), 1U);
  EXPECT_THAT(one.prompts[0].tokens, ElementsAre(1, 2, 999));
  CompletionRequest two;
  ASSERT_FALSE(ParseCompletionRequest(R"({"prompt": [[1, 2], [3]]})", Limits(), &two).has_value());
  ASSERT_EQ(two.prompts.size(), 2U);
  EXPECT_TRUE(two.prompts[1].is_tokens);
  EXPECT_THAT(two.prompts[1].tokens, ElementsAre(3));
}

TEST(ParseCompletionTest, NullIsTheSameAsAbsentAndSomeValuesAskForNothing) {
  CompletionRequest request;
  const auto error = ParseCompletionRequest(
      R"({"prompt": "a", "logprobs": null, "stop": null, "tools": null, "tools_x": 1, "seed": null,
          "response_format": {"type": "text"}, "tool_choice": "none", "functions": [],
          "suffix": "", "modalities": ["text"], "skip_special_tokens": true, "top_k": -1,
          "use_beam_search": false, "stop_token_ids": null, "max_tokens": 16.0})",
      Limits(), &request);
  ASSERT_FALSE(error.has_value()) << error->message;
  EXPECT_FALSE(request.logprobs.has_value());
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.max_tokens, 16);
}

TEST(ParseCompletionTest, EchoMayAskForNoTokens) {
  CompletionRequest request;
  EXPECT_FALSE(ParseCompletionRequest(With(R"("echo": true, "max_tokens": 0, "logprobs": 1)"),
                                      Limits(), &request)
                   .has_value());
  EXPECT_EQ(request.sampling.max_tokens, 0);
}

TEST(ParseChatTest, JoinsTextPartsAndKnowsDeveloperAsSystem) {
  ChatRequest request;
  const auto error = ParseChatRequest(
      R"({"messages": [{"role": "developer", "content": "be brief"},
                       {"role": "user", "name": "ann", "content": [
                           {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                       {"role": "assistant", "content": ""}],
          "logprobs": true, "top_logprobs": 3, "max_tokens": 5, "max_completion_tokens": 6})",
      Limits(), &request);
  ASSERT_FALSE(error.has_value()) << error->message;
  ASSERT_EQ(request.messages.size(), 3U);
  EXPECT_EQ(request.messages[0].role, "system");
  EXPECT_EQ(request.messages[1].content, "ab");
  EXPECT_EQ(request.messages[1].name, "ann");
  EXPECT_EQ(request.logprobs, 3);
  EXPECT_EQ(request.sampling.max_tokens, 6);
}

TEST(ParseTest, ErrorsNeverEchoLongClientText) {
  CompletionRequest request;
  const std::string key(100000, 'k');
  const auto error =
      ParseCompletionRequest(With("\"logit_bias\": {\"" + key + "\": 1}"), Limits(), &request);
  ASSERT_TRUE(error.has_value());
  EXPECT_LT(error->message.size(), 300U);
  EXPECT_THAT(ErrorJson(*error), HasSubstr("\"param\":\"logit_bias\""));
}

}  // namespace
}  // namespace moe::gateway
