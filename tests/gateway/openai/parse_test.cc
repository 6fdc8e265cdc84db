// Tests gateway/openai/parse.h and strict_json.h.
#include "gateway/openai/parse.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ParseLimits Limits() {
  ParseLimits limits;
  limits.vocab_size = 1000;
  return limits;
}

std::string Repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

// A completion request with more fields.
std::string With(const std::string& fields) { return R"({"prompt": "hi", )" + fields + "}"; }
std::string ChatWith(const std::string& fields) {
  return R"({"messages": [{"role": "user", "content": "hi"}], )" + fields + "}";
}
std::string Message(const std::string& message) { return R"({"messages": [)" + message + "]}"; }

struct BadInput {
  const char* sentence;
  std::string body;
  const char* param;
};

TEST(ParseCompletionTest, RefusesBadInputAndNamesTheField) {
  const std::vector<BadInput> inputs = {
      {"input 17: deep nesting without an end", Repeat("[", 100000), ""},
      {"input 17: deep nesting inside a known field", With("\"stop\": " + Repeat("[", 100000)), ""},
      {"input 17: deep nesting inside an unknown field",
       With("\"x\": " + Repeat("[", 70) + Repeat("]", 70)), ""},
      {"input 18: invalid UTF-8", "{\"prompt\": \"\xff\xfe\"}", ""},
      {"input 18: an overlong encoding", "{\"prompt\": \"\xc0\xaf\"}", ""},
      {"input 18: a lone surrogate", R"({"prompt": "\ud800"})", ""},
      {"input 18: an escaped NUL", R"({"prompt": "a\u0000b"})", "prompt"},
      {"input 18: a raw NUL", std::string("{\"prompt\": \"a\0b\"}", 17), ""},
      {"input 18: a NUL in a stop string", With(R"("stop": "\u0000")"), "stop"},
      {"input 19: NaN", With(R"("temperature": NaN)"), ""},
      {"input 19: Infinity", With(R"("temperature": Infinity)"), ""},
      {"input 19: a number too large for a double", With(R"("temperature": 1e999)"), ""},
      {"input 20: a negative temperature", With(R"("temperature": -0.1)"), "temperature"},
      {"a temperature above 2", With(R"("temperature": 2.5)"), "temperature"},
      {"input 20: a negative max_tokens", With(R"("max_tokens": -1)"), "max_tokens"},
      {"max_tokens 0 without echo", With(R"("max_tokens": 0)"), "max_tokens"},
      {"input 20: min_tokens above max_tokens", With(R"("min_tokens": 9, "max_tokens": 8)"),
       "min_tokens"},
      {"top_p 0", With(R"("top_p": 0)"), "top_p"},
      {"top_p above 1", With(R"("top_p": 1.01)"), "top_p"},
      {"top_k below -1", With(R"("top_k": -2)"), "top_k"},
      {"min_p above 1", With(R"("min_p": 1.5)"), "min_p"},
      {"a frequency penalty above 2", With(R"("frequency_penalty": 2.1)"), "frequency_penalty"},
      {"a presence penalty below -2", With(R"("presence_penalty": -3)"), "presence_penalty"},
      {"a repetition penalty of 0", With(R"("repetition_penalty": 0)"), "repetition_penalty"},
      {"input 21: a huge n", With(R"("n": 1000000000)"), "n"},
      {"n 0", With(R"("n": 0)"), "n"},
      {"input 21: a huge best_of", With(R"("best_of": 1000000000)"), "best_of"},
      {"input 22: a million prompts", R"({"prompt": [)" + Repeat("\"a\",", 999999) + "\"a\"]}",
       "prompt"},
      {"too many choices in all", R"({"n": 128, "prompt": [)" + Repeat("\"a\",", 99) + "\"a\"]}",
       "n"},
      {"input 23: no prompt", R"({"model": "x"})", "prompt"},
      {"input 23: a null prompt", R"({"prompt": null})", "prompt"},
      {"input 23: an empty text", R"({"prompt": ""})", "prompt"},
      {"input 23: an empty list", R"({"prompt": []})", "prompt"},
      {"input 23: an empty text in a list", R"({"prompt": ["a", ""]})", "prompt[1]"},
      {"input 23: an empty token list", R"({"prompt": [[]]})", "prompt[0]"},
      {"a prompt that is a number", R"({"prompt": 5})", "prompt"},
      {"a prompt that is an object", R"({"prompt": {"a": 1}})", "prompt"},
      {"prompts of two kinds", R"({"prompt": ["a", [1]]})", "prompt[1]"},
      {"input 24: a negative token id", R"({"prompt": [1, -1]})", "prompt"},
      {"input 24: a token id of the logits' width", R"({"prompt": [[1], [1000]]})", "prompt[1]"},
      {"input 24: a huge token id", R"({"prompt": [99999999999999999999]})", "prompt"},
      {"a token id that is no number", R"({"prompt": [1, "2"]})", "prompt"},
      {"input 24: a negative id in logit_bias", With(R"("logit_bias": {"-1": 1})"), "logit_bias"},
      {"input 24: an id in logit_bias out of range", With(R"("logit_bias": {"1000": 1})"),
       "logit_bias"},
      {"a key of logit_bias that is no id", With(R"("logit_bias": {"a": 1})"), "logit_bias"},
      {"a value of logit_bias out of range", With(R"("logit_bias": {"1": 101})"), "logit_bias"},
      {"a logit_bias that is a list", With(R"("logit_bias": [1])"), "logit_bias"},
      {"input 24: bad_words", With(R"("bad_words": ["x"])"), "bad_words"},
      {"a stop token id out of range", With(R"("stop_token_ids": [1000])"), "stop_token_ids"},
      {"input 25: a million logprobs", With(R"("logprobs": 1000000)"), "logprobs"},
      {"logprobs true, which is the chat form", With(R"("logprobs": true)"), "logprobs"},
      {"input 26: an empty stop string", With(R"("stop": "")"), "stop"},
      {"input 26: an empty stop string in a list", With(R"("stop": ["a", ""])"), "stop"},
      {"input 26: 100,000 stop strings", With("\"stop\": [" + Repeat("\"a\",", 99999) + "\"a\"]"),
       "stop"},
      {"input 26: a stop string of 1 MB", With("\"stop\": \"" + std::string(1 << 20, 'a') + "\""),
       "stop"},
      {"a stop that is a number", With(R"("stop": 5)"), "stop"},
      {"input 28: a schema",
       With(R"("response_format": {"type": "json_schema", "json_schema": {}})"), "response_format"},
      {"input 28: guided_regex", With(R"("guided_regex": "(a+)+")"), "guided_regex"},
      {"input 29: a guided field of a new name", With(R"("guided_new": {})"), "guided_new"},
      {"structured_outputs", With(R"("structured_outputs": {"json": {}})"), "structured_outputs"},
      {"input 30: tools of a bad type", With(R"("tools": 5)"), "tools"},
      {"tools", With(R"("tools": [{"type": "function"}])"), "tools"},
      {"functions", With(R"("functions": [{}])"), "functions"},
      {"tool_choice auto", With(R"("tool_choice": "auto")"), "tool_choice"},
      {"input 31: its own chat_template", With(R"("chat_template": "{{ 1 }}")"), "chat_template"},
      {"suffix", With(R"("suffix": "end")"), "suffix"},
      {"skip_special_tokens false", With(R"("skip_special_tokens": false)"), "skip_special_tokens"},
      {"prompt_logprobs", With(R"("prompt_logprobs": 1)"), "prompt_logprobs"},
      {"stream_options without stream", With(R"("stream_options": {"include_usage": true})"),
       "stream_options"},
      {"stream_options of the wrong type", With(R"("stream": true, "stream_options": 1)"),
       "stream_options"},
      {"include_usage of the wrong type",
       With(R"("stream": true, "stream_options": {"include_usage": 1})"), "stream_options"},
      {"input 36: the same key twice", R"({"prompt": "a", "prompt": "b"})", "prompt"},
      {"input 36: the same key twice further down", With(R"("x": {"y": {"k": 1, "k": 2}})"), "k"},
      {"input 36: a text for a number", With(R"("temperature": "1")"), "temperature"},
      {"input 36: a truth value for a number", With(R"("max_tokens": true)"), "max_tokens"},
      {"input 36: a fraction for an integer", With(R"("max_tokens": 1.5)"), "max_tokens"},
      {"input 36: a text for a truth value", With(R"("stream": "true")"), "stream"},
      {"input 36: a number for the model", With(R"("model": 5)"), "model"},
      {"a seed of more than 64 bits", With(R"("seed": 18446744073709551616)"), "seed"},
      {"a seed that is a text", With(R"("seed": "x")"), "seed"},
      {"no JSON at all", "hello", ""},
      {"nothing", "", ""},
      {"a list", "[]", ""},
      {"JSON and then more", R"({"prompt": "a"} x)", ""},
  };
  for (const BadInput& input : inputs) {
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
  const std::vector<BadInput> inputs = {
      {"input 23: no messages", "{}", "messages"},
      {"input 23: an empty list of messages", R"({"messages": []})", "messages"},
      {"messages that are no list", R"({"messages": "hi"})", "messages"},
      {"a message that is no object", Message("5"), "messages[0]"},
      {"a message without role", Message(R"({"content": "a"})"), "messages[0].role"},
      {"a message of a tool", Message(R"({"role": "tool", "content": "a"})"), "messages[0].role"},
      {"a role that is a number", Message(R"({"role": 5, "content": "a"})"), "messages[0].role"},
      {"a message without content", Message(R"({"role": "user"})"), "messages[0].content"},
      {"a null content", Message(R"({"role": "user", "content": null})"), "messages[0].content"},
      {"a content that is a number", Message(R"({"role": "user", "content": 1})"),
       "messages[0].content"},
      {"input 18: a NUL in a message", Message(R"({"role": "user", "content": "\u0000"})"),
       "messages[0].content"},
      {"an empty list of parts", Message(R"({"role": "user", "content": []})"),
       "messages[0].content"},
      {"input 33: an image", Message(R"({"role": "user", "content": [{"type": "text", "text": "a"},
                 {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]})"),
       "messages[0].content[1]"},
      {"input 33: a file URL",
       Message(R"({"role": "user", "content": [{"type": "file", "file": "file:///etc/passwd"}]})"),
       "messages[0].content[0]"},
      {"a part without text", Message(R"({"role": "user", "content": [{"type": "text"}]})"),
       "messages[0].content[0]"},
      {"a call of a tool",
       Message(R"({"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]})"),
       "messages[0].tool_calls"},
      {"input 30: tools", ChatWith(R"("tools": [{"type": "function"}])"), "tools"},
      {"input 31: its own chat_template", ChatWith(R"("chat_template": "x")"), "chat_template"},
      {"arguments of the template", ChatWith(R"("chat_template_kwargs": {"a": 1})"),
       "chat_template_kwargs"},
      {"echo", ChatWith(R"("echo": true)"), "echo"},
      {"audio", ChatWith(R"("audio": {"voice": "a"})"), "audio"},
      {"modalities with audio", ChatWith(R"("modalities": ["text", "audio"])"), "modalities"},
      {"JSON as format", ChatWith(R"("response_format": {"type": "json_object"})"),
       "response_format"},
      {"input 25: too many top_logprobs", ChatWith(R"("logprobs": true, "top_logprobs": 1000000)"),
       "top_logprobs"},
      {"top_logprobs without logprobs", ChatWith(R"("top_logprobs": 2)"), "top_logprobs"},
      {"logprobs as a number, which is the completions form", ChatWith(R"("logprobs": 1)"),
       "logprobs"},
      {"max_completion_tokens 0", ChatWith(R"("max_completion_tokens": 0)"),
       "max_completion_tokens"},
      {"no token at all, though echo is not of this API", ChatWith(R"("max_tokens": 0)"),
       "max_tokens"},
  };
  for (const BadInput& input : inputs) {
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
