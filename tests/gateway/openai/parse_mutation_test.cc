// Random changes of good bodies through gateway/openai/parse.h: whatever comes is parsed within its
// limits or refused, and never ends the process. The fuzzer in tests/fuzz goes deeper.
#include <random>
#include <string>
#include <vector>

#include "gateway/openai/parse.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

TEST(ParseMutationTest, AnyBodyIsParsedOrRefused) {
  const std::vector<std::string> seeds = {
      R"({"model": "m", "prompt": ["a", "b"], "max_tokens": 7, "temperature": 0.5, "stop": ["x"],
          "logit_bias": {"7": -100}, "stream": true, "stream_options": {"include_usage": true}})",
      R"({"prompt": [[1, 2, 3], [4]], "echo": true, "logprobs": 1, "n": 2, "seed": -1})",
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "\u00e9\ud83d\ude00"}]},
          {"role": "assistant", "content": "x", "name": "n"}], "top_logprobs": 2, "logprobs": true})"};
  const std::vector<std::string> pieces = {
      "null",        "[",       "]",    "{",     "}",
      "\"",          ",",       "-1",   "1e999", "\\u0000",
      "\\ud800",     "\xff",    "true", ":",     "99999999999999999999",
      "\"prompt\":", "[[[[[[[["};
  std::mt19937 random(11);
  ParseLimits limits;
  limits.vocab_size = 100;
  int num_accepted = 0;
  for (int round = 0; round < 60000; ++round) {
    std::string body = seeds[random() % seeds.size()];
    for (unsigned i = 0; i < random() % 4; ++i) {
      const size_t at = random() % (body.size() + 1);
      switch (random() % 4) {
        case 0:
          body.insert(at, pieces[random() % pieces.size()]);
          break;
        case 1:
          body.erase(at, random() % 8);
          break;
        case 2:
          body.insert(at, body.substr(random() % (body.size() + 1), random() % 40));
          break;
        default:
          if (at < body.size()) {
            body[at] = static_cast<char>(random());
          }
      }
    }
    CompletionRequest completion;
    const auto completion_error = ParseCompletionRequest(body, limits, &completion);
    if (completion_error.has_value()) {
      EXPECT_EQ(completion_error->status, 400);
      EXPECT_LT(ErrorJson(*completion_error).size(), 2000U);
    } else {
      ++num_accepted;
      EXPECT_FALSE(completion.prompts.empty());
      for (const Prompt& prompt : completion.prompts) {
        for (const int32_t token : prompt.tokens) {
          EXPECT_TRUE(token >= 0 && token < limits.vocab_size);
        }
      }
    }
    ChatRequest chat;
    if (!ParseChatRequest(body, limits, &chat).has_value()) {
      ++num_accepted;
      EXPECT_FALSE(chat.messages.empty());
    }
  }
  EXPECT_GT(num_accepted, 10000) << "the changes are too wild to reach far";
}

}  // namespace
}  // namespace moe::gateway
