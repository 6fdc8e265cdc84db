// Tests gateway/openai/response.h and api_error.h.
#include "gateway/openai/response.h"

#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moe::gateway {
namespace {

using Json = nlohmann::json;

ResponseHead Head(Api api) {
  return {.api = api, .id = "id-1", .created = 17, .model = "m", .fingerprint = "fp"};
}

TEST(ResponseTest, WholeChatAnswer) {
  ChoicePart choice{
      .index = 0,
      .text = "hi",
      .first = true,
      .finish_reason = "stop",
      .with_logprobs = true,
      .logprobs = {
          {.bytes = "h\xc3", .logprob = -0.5F, .top = {{"h\xc3", -0.5F}}, .text_offset = 0}}};
  const Json json = Json::parse(
      WholeResponse(Head(Api::kChat), {choice}, {.prompt_tokens = 3, .completion_tokens = 1}));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["choices"][0]["message"]["content"], "hi");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  const Json token = json["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "bytes:\\x68\\xc3");
  EXPECT_EQ(token["bytes"], Json::array({0x68, 0xC3}));
  EXPECT_EQ(token["logprob"], -0.5);
  EXPECT_EQ(token["top_logprobs"][0]["logprob"], -0.5);
  EXPECT_EQ(json["usage"]["total_tokens"], 4);
  EXPECT_EQ(json["system_fingerprint"], "fp");
  EXPECT_EQ(json["created"], 17);
}

TEST(ResponseTest, CompletionLogprobsHaveTheDrawnTokenAndKeepTheLikelierOfEqualTexts) {
  const ChoicePart choice{
      .text = "ab",
      .finish_reason = "length",
      .with_logprobs = true,
      .logprobs = {
          {.bytes = "a", .logprob = std::nullopt, .top = {}, .text_offset = 0},
          {.bytes = "b", .logprob = -3.0F, .top = {{"x", -1.0F}, {"x", -2.0F}}, .text_offset = 1}}};
  const Json json = Json::parse(WholeResponse(Head(Api::kCompletions), {choice}, {}));
  const Json logprobs = json["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"a", "b"}));
  EXPECT_EQ(logprobs["token_logprobs"], Json::array({nullptr, -3.0}));
  EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
  EXPECT_EQ(logprobs["top_logprobs"][1], Json({{"x", -1.0}, {"b", -3.0}}));
  EXPECT_EQ(logprobs["text_offset"], Json::array({0, 1}));
  EXPECT_EQ(json["object"], "text_completion");
}

TEST(ResponseTest, ARoleComesOnlyWithTheFirstChunkAndInfinityIsANumber) {
  ChoicePart part;
  part.index = 2;
  part.text = "x";
  part.first = true;
  Json json = Json::parse(ChunkResponse(Head(Api::kChat), part, std::nullopt));
  EXPECT_EQ(json["object"], "chat.completion.chunk");
  EXPECT_EQ(json["choices"][0]["index"], 2);
  EXPECT_EQ(json["choices"][0]["delta"], Json({{"role", "assistant"}, {"content", "x"}}));
  EXPECT_EQ(json["choices"][0]["finish_reason"], nullptr);
  EXPECT_FALSE(json.contains("usage"));
  part.first = false;
  part.text = "";
  part.finish_reason = "stop";
  part.with_logprobs = true;
  part.logprobs = {{.bytes = "y", .logprob = -std::numeric_limits<float>::infinity(), .top = {}}};
  json = Json::parse(ChunkResponse(Head(Api::kChat), part, Usage{1, 2}));
  EXPECT_EQ(json["choices"][0]["delta"], Json::object());
  EXPECT_EQ(json["choices"][0]["logprobs"]["content"][0]["logprob"], -9999.0);
  EXPECT_EQ(json["usage"]["completion_tokens"], 2);
}

TEST(ResponseTest, TheUsageChunkHasNoChoices) {
  const Json json = Json::parse(UsageChunk(Head(Api::kCompletions), Usage{5, 6}));
  EXPECT_EQ(json["choices"], Json::array());
  EXPECT_EQ(json["usage"]["total_tokens"], 11);
}

TEST(ResponseTest, TokenTextFollowsUnicode) {
  EXPECT_EQ(TokenText("\xe2\x82\xac"), "\xe2\x82\xac");
  EXPECT_EQ(TokenText("\xe2\x82"), "bytes:\\xe2\\x82");
  EXPECT_EQ(TokenText("\xed\xa0\x80"), "bytes:\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(TokenText("\xf5\x80\x80\x80"), "bytes:\\xf5\\x80\\x80\\x80");
  EXPECT_EQ(CountCharacters("a\xe2\x82\xac!"), 3);
}

TEST(ApiErrorTest, HasTheShapeOfOpenAi) {
  const Json json = Json::parse(ErrorJson(ModelNotFound("gpt\n\x01" + std::string(1000, 'x'))));
  EXPECT_EQ(json["error"]["type"], "invalid_request_error");
  EXPECT_EQ(json["error"]["param"], "model");
  EXPECT_EQ(json["error"]["code"], "model_not_found");
  EXPECT_LT(json["error"]["message"].get<std::string>().size(), 150U);
  EXPECT_EQ(json["error"]["message"].get<std::string>().find('\n'), std::string::npos);
}

TEST(ApiErrorTest, StatusesBecomeHttp) {
  EXPECT_EQ(FromStatus(absl::ResourceExhaustedError("x")).status, 429);
  EXPECT_GT(FromStatus(absl::ResourceExhaustedError("x")).retry_after_seconds, 0);
  EXPECT_EQ(FromStatus(absl::InvalidArgumentError("too long")).status, 400);
  EXPECT_EQ(FromStatus(absl::InvalidArgumentError("too long")).message, "too long");
  EXPECT_EQ(FromStatus(absl::UnavailableError("/secret/path")).status, 503);
  const ApiError internal = FromStatus(absl::InternalError("/secret/path"));
  EXPECT_EQ(internal.status, 500);
  EXPECT_EQ(internal.message.find("secret"), std::string::npos);
  EXPECT_EQ(internal.type, "server_error");
}

TEST(ApiErrorTest, ShortenedCutsBetweenCharacters) {
  const std::string text = std::string(63, 'a') + "\xc3\xa9 and more";
  EXPECT_EQ(Shortened(text), std::string(63, 'a') + "...");
}

}  // namespace
}  // namespace moe::gateway
