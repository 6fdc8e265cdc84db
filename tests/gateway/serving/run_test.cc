// Tests gateway/serving: job.h, choice.h, run.h and served_model.h, with a scripted engine.
#include "gateway/serving/run.h"

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "gateway/journal/engine_view.h"
#include "gateway/openai/parse.h"
#include "gateway/serving/served_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/testing/fake_generator.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway {
namespace {

using ::testing::AllOf;
using testing::BytesAsTokens;
using ::testing::ElementsAre;
using testing::FakeGenerator;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const ServedModel& Model() {
  static const auto* const model = new ServedModel(testing::LoadTinyModel());
  return *model;
}

class RunTest : public ::testing::Test {
 protected:
  std::optional<ApiError> Build(const std::string& body, bool chat) {
    job_ = Job();
    JobContext context;
    context.model = &Model();
    context.welcome = generator_.view().welcome;
    context.arrival = absl::Now();
    context.drawn_seed = 4711;
    context.request_id = "1";
    ParseLimits limits;
    limits.vocab_size = testing::kTinyVocabSize;
    if (chat) {
      ChatRequest request;
      if (auto error = ParseChatRequest(body, limits, &request); error.has_value()) {
        return error;
      }
      return BuildChatJob(std::move(request), context, &job_);
    }
    CompletionRequest request;
    if (auto error = ParseCompletionRequest(body, limits, &request); error.has_value()) {
      return error;
    }
    return BuildCompletionJob(std::move(request), context, &job_);
  }

  static bool Never() { return false; }

  // The answer in one piece; {"error": ...} when it failed.
  Json Whole(const std::string& body, bool chat = false) {
    if (auto error = Build(body, chat); error.has_value()) {
      return Json::parse(ErrorJson(*error));
    }
    gateway::Run run(job_, *Model().tokenizer, generator_, metrics_, options_);
    std::string json;
    auto error = run.Begin(Never);
    if (!error.has_value()) {
      error = run.Finish(Never, &json);
    }
    return Json::parse(error.has_value() ? ErrorJson(*error) : json);
  }

  // The events of a stream.
  std::vector<std::string> Events(const std::string& body, bool chat = false) {
    EXPECT_FALSE(Build(body, chat).has_value());
    gateway::Run run(job_, *Model().tokenizer, generator_, metrics_, options_);
    EXPECT_FALSE(run.Begin(Never).has_value());
    std::string all;
    for (bool more = true; more;) {
      std::string events;
      more = run.NextEvents(Never, &events);
      all += events;
    }
    return absl::StrSplit(all, "\n\n", absl::SkipEmpty());
  }

  FakeGenerator generator_;
  GatewayMetrics metrics_{"tiny", 512};
  RunOptions options_;
  Job job_;
};

TEST_F(RunTest, ACompletionHasTextUsageAndFinishReason) {
  generator_.SetAnswer("caf\xc3\xa9");
  const Json json = Whole(R"({"prompt": "hi", "temperature": 0})");
  EXPECT_EQ(json["choices"][0]["text"], "caf\xc3\xa9");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(json["usage"]["completion_tokens"], 6) << "five bytes and the end token";
  EXPECT_EQ(json["system_fingerprint"], "cpu-test-1");
  const auto requests = generator_.requests();
  ASSERT_EQ(requests.size(), 1U);
  EXPECT_EQ(requests[0].prompt_tokens, BytesAsTokens("hi"));
  EXPECT_EQ(requests[0].sampling.max_tokens(), 16U) << "the default of this API";
  EXPECT_EQ(requests[0].sampling.seed(), 4711U) << "the drawn one";
  EXPECT_THAT(requests[0].sampling.stop_token_ids(), ElementsAre(256, 258));
}

TEST_F(RunTest, AChatPromptUsesTheTemplateAndTheContextThatIsLeft) {
  const Json json =
      Whole(R"({"messages": [{"role": "user", "content": "<|im_end|>"}], "seed": 5})", true);
  EXPECT_EQ(json["choices"][0]["message"]["content"], "hello");
  const auto requests = generator_.requests();
  std::vector<int32_t> expected = {testing::kImStart};
  for (const int32_t token : BytesAsTokens("user\n<|im_end|>")) {
    expected.push_back(token);  // a user's "<|im_end|>" is text
  }
  expected.push_back(testing::kImEnd);
  expected.push_back('\n');
  expected.push_back(testing::kImStart);
  for (const int32_t token : BytesAsTokens("assistant\n")) {
    expected.push_back(token);
  }
  EXPECT_EQ(requests[0].prompt_tokens, expected);
  EXPECT_EQ(requests[0].sampling.max_tokens(), 512U - expected.size());
  EXPECT_EQ(requests[0].sampling.seed(), 5U);
}

TEST_F(RunTest, MaxTokensCutsAndIsClippedToTheContext) {
  generator_.SetAnswer("abcdef");
  const Json json = Whole(R"({"prompt": "hi", "max_tokens": 3})");
  EXPECT_EQ(json["choices"][0]["text"], "abc");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
  Whole(R"({"prompt": "hi", "max_tokens": 100000})");
  EXPECT_EQ(generator_.requests()[1].sampling.max_tokens(), 510U);
}

TEST_F(RunTest, APromptLongerThanTheContextNamesBothCounts) {
  const Json json = Whole(R"({"prompt": ")" + std::string(600, 'a') + "\"}");
  EXPECT_EQ(json["error"]["code"], "context_length_exceeded");
  EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("600"));
  EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("512"));
  const Json huge = Whole(R"({"prompt": ")" + std::string(4 << 20, 'a') + "\"}");
  EXPECT_THAT(huge["error"]["message"].get<std::string>(), HasSubstr("more than"));
  const Json chat = Whole(
      R"({"messages": [{"role": "user", "content": ")" + std::string(600, 'a') + "\"}]}", true);
  EXPECT_EQ(chat["error"]["param"], "messages");
  EXPECT_TRUE(generator_.requests().empty());
}

TEST(SequenceLimitTest, IsTheContextOrTheKvCacheOfAnOwner) {
  engine::v1::Welcome welcome;
  welcome.set_max_context(512);
  EXPECT_EQ(SequenceLimit(welcome), 512);
  welcome.set_kv_capacity_tokens(100);
  EXPECT_EQ(SequenceLimit(welcome), 100);
}

TEST_F(RunTest, AStopStringAcrossTokensEndsTheTextAndTheGeneration) {
  generator_.SetAnswer("one two three");
  const Json json = Whole(R"({"prompt": "hi", "stop": [" two"], "max_tokens": 100})");
  EXPECT_EQ(json["choices"][0]["text"], "one");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["completion_tokens"], 7) << "up to the token that completes it";
  EXPECT_EQ(generator_.num_cancelled(), 1);
}

TEST_F(RunTest, StopStringsDoNotCountBeforeMinTokens) {
  generator_.SetAnswer("xaxbx");
  const Json json = Whole(R"({"prompt": "hi", "stop": "x", "min_tokens": 2})");
  EXPECT_EQ(json["choices"][0]["text"], "xa");
  EXPECT_EQ(generator_.requests()[0].sampling.min_tokens(), 2U);
}

TEST_F(RunTest, MinTokensAboveTheDefaultOfMaxTokensIsRefused) {
  const Json json = Whole(R"({"prompt": "hi", "min_tokens": 17})");
  EXPECT_EQ(json["error"]["param"], "min_tokens");
  EXPECT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("16"));
  EXPECT_FALSE(Whole(R"({"prompt": "hi", "min_tokens": 16})").contains("error"));
}

TEST_F(RunTest, IgnoreEosLeavesNoEndTokens) {
  Whole(R"({"prompt": "hi", "ignore_eos": true, "max_tokens": 2, "stop_token_ids": [7]})");
  EXPECT_THAT(generator_.requests()[0].sampling.stop_token_ids(), ElementsAre(7));
}

// Joins the chunks of one choice.
struct Joined {
  std::string text;
  std::string finish_reason;
  std::vector<Json> logprobs;
};

std::map<int, Joined> Join(const std::vector<std::string>& events, bool chat) {
  std::map<int, Joined> joined;
  for (const std::string& event : events) {
    if (event == "data: [DONE]") {
      continue;
    }
    const Json json = Json::parse(event.substr(6));
    for (const Json& choice : json["choices"]) {
      Joined& target = joined[choice["index"].get<int>()];
      target.text +=
          chat ? choice["delta"].value("content", "") : choice["text"].get<std::string>();
      if (!choice["finish_reason"].is_null()) {
        target.finish_reason = choice["finish_reason"];
      }
      if (!choice["logprobs"].is_null()) {
        const auto& list = chat ? choice["logprobs"]["content"] : choice["logprobs"]["tokens"];
        target.logprobs.insert(target.logprobs.end(), list.begin(), list.end());
      }
    }
  }
  return joined;
}

TEST_F(RunTest, StreamedChunksAddUpToTheWholeAnswer) {
  struct Case {
    const char* sentence;
    std::string answer;
    std::string fields;
    bool chat;
  };
  const std::vector<Case> cases = {
      {"plain", "hello", "", false},
      {"characters of several bytes", "\xe2\x82\xac caf\xc3\xa9 \xf0\x9f\x98\x80", "", false},
      {"a character cut by max_tokens", "ab\xe2\x82\xac", R"(, "max_tokens": 4)", false},
      {"bytes that are no UTF-8", "a\xff\xfe z", "", false},
      {"a stop string over tokens", "one two three", R"(, "stop": ["wo t"])", false},
      {"a stop string that never ends", "one tw", R"(, "stop": ["two"])", false},
      {"several choices", "abc", R"(, "n": 3)", false},
      {"log-probabilities", "caf\xc3\xa9", R"(, "logprobs": 2)", false},
      {"echo with log-probabilities", "yes", R"(, "logprobs": 1, "echo": true)", false},
      {"chat", "caf\xc3\xa9 now", R"(, "logprobs": true, "top_logprobs": 2, "n": 2)", true},
      {"an empty answer", "", "", true},
  };
  for (const Case& c : cases) {
    for (const int piece : {1, 2, 100}) {
      SCOPED_TRACE(c.sentence);
      generator_.SetAnswer(c.answer);
      generator_.SetPiece(piece);
      const std::string start =
          c.chat ? R"({"messages": [{"role": "user", "content": "q"}])" : R"({"prompt": "q")";
      const Json whole = Whole(start + c.fields + "}", c.chat);
      ASSERT_FALSE(whole.contains("error")) << whole;
      const auto events = Events(
          start + c.fields + R"(, "stream": true, "stream_options": {"include_usage": true}})",
          c.chat);
      ASSERT_EQ(events.back(), "data: [DONE]");
      const Json usage = Json::parse(events[events.size() - 2].substr(6));
      EXPECT_EQ(usage["choices"], Json::array());
      EXPECT_EQ(usage["usage"], whole["usage"]);
      const auto joined = Join(events, c.chat);
      ASSERT_EQ(joined.size(), whole["choices"].size());
      for (const Json& choice : whole["choices"]) {
        const Joined& streamed = joined.at(choice["index"].get<int>());
        EXPECT_EQ(Json(streamed.text), c.chat ? choice["message"]["content"] : choice["text"]);
        EXPECT_EQ(Json(streamed.finish_reason), choice["finish_reason"]);
        if (!choice["logprobs"].is_null()) {
          EXPECT_EQ(Json(streamed.logprobs),
                    c.chat ? choice["logprobs"]["content"] : choice["logprobs"]["tokens"]);
        }
      }
    }
  }
}

TEST_F(RunTest, EveryChunkIsValidUtf8AndTheFirstHasAToken) {
  generator_.SetAnswer("\xe2\x82\xac");
  const auto events =
      Events(R"({"messages": [{"role": "user", "content": "q"}], "stream": true})", true);
  const Json first = Json::parse(events[0].substr(6));
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(first["choices"][0]["delta"]["content"], "\xe2\x82\xac");
}

TEST_F(RunTest, UsageCanComeWithEveryChunk) {
  generator_.SetAnswer("abc");
  const auto events = Events(
      R"({"prompt": "hi", "stream": true, "stream_options": {"continuous_usage_stats": true}})");
  EXPECT_EQ(Json::parse(events[1].substr(6))["usage"]["completion_tokens"], 2);
  EXPECT_EQ(Json::parse(events[1].substr(6))["usage"]["prompt_tokens"], 2);
}

TEST_F(RunTest, EchoScoresThePrompt) {
  generator_.SetAnswer("z");
  const Json json =
      Whole(R"({"prompt": [[104, 105], [106]], "echo": true, "logprobs": 1, "max_tokens": 1})");
  const Json first = json["choices"][0];
  EXPECT_EQ(first["text"], "hiz");
  EXPECT_EQ(first["logprobs"]["tokens"], Json::array({"h", "i", "z"}));
  EXPECT_EQ(first["logprobs"]["token_logprobs"], Json::array({nullptr, -1.0, -0.125}));
  EXPECT_EQ(first["logprobs"]["top_logprobs"][1], Json({{"i", -1.0}}));
  EXPECT_EQ(first["logprobs"]["text_offset"], Json::array({0, 1, 2}));
  EXPECT_EQ(json["choices"][1]["text"], "jz");
  EXPECT_EQ(json["choices"][1]["index"], 1);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 3);
}

TEST_F(RunTest, EchoWithoutTokensGeneratesNothingVisible) {
  const Json json = Whole(R"({"prompt": "hi", "echo": true, "logprobs": 0, "max_tokens": 0})");
  EXPECT_EQ(json["choices"][0]["text"], "hi");
  EXPECT_EQ(json["choices"][0]["logprobs"]["tokens"], Json::array({"h", "i"}));
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
}

TEST_F(RunTest, PromptsTimesChoicesAreNumberedPromptByPrompt) {
  const Json json = Whole(R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 1})");
  ASSERT_EQ(json["choices"].size(), 4U);
  const auto requests = generator_.requests();
  EXPECT_EQ(requests[2].prompt_tokens, BytesAsTokens("b"));
  EXPECT_EQ(requests[2].sampling.choice(), 0U);
  EXPECT_EQ(requests[3].sampling.choice(), 1U);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 2) << "each prompt once";
  EXPECT_EQ(json["usage"]["completion_tokens"], 4);
}

TEST_F(RunTest, AFullQueueRefusesARequestThatHasNotBegun) {
  generator_.SetMaxLive(0);
  const Json json = Whole(R"({"prompt": "hi"})");
  EXPECT_EQ(json["error"]["type"], "rate_limit_error");
}

TEST_F(RunTest, ManyPromptsGoThroughASmallQueue) {
  generator_.SetMaxLive(3);
  options_.queue_full_retry = absl::Milliseconds(1);
  const Json json = Whole(R"({"prompt": ["a","b","c","d","e","f","g"], "n": 2, "max_tokens": 3})");
  ASSERT_TRUE(json.contains("choices")) << json;
  EXPECT_EQ(json["choices"].size(), 14U);
  for (const Json& choice : json["choices"]) {
    EXPECT_EQ(choice["text"], "hel");
  }
  EXPECT_LE(generator_.max_seen_live(), 3);
}

TEST_F(RunTest, ARequestNeverHasMoreThanItsShareInTheEngine) {
  options_.max_active = 2;
  Whole(R"({"prompt": ["a","b","c","d","e"], "max_tokens": 3})");
  EXPECT_EQ(generator_.requests().size(), 5U);
  EXPECT_EQ(generator_.max_seen_live(), 2);
}

TEST_F(RunTest, AnErrorInMidStreamIsAnEventAndNoDoneFollows) {
  generator_.SetAnswer("abcdef");
  generator_.FailAfter(2, absl::UnavailableError("given up"));
  const auto events = Events(R"({"prompt": "hi", "stream": true})");
  const Json last = Json::parse(events.back().substr(6));
  EXPECT_EQ(last["error"]["type"], "server_error");
  EXPECT_EQ(Join({events.begin(), events.end() - 1}, false).at(0).text, "ab");
}

TEST_F(RunTest, ASequenceThatCannotGoOnFailsItsRequest) {
  generator_.SetEventError("logits are not finite");
  const Json json = Whole(R"({"prompt": "hi"})");
  EXPECT_EQ(json["error"]["type"], "server_error");
  EXPECT_EQ(generator_.num_live(), 0);
}

TEST_F(RunTest, AnEngineThatIsNotThereIsUnavailable) {
  generator_.SetStartStatus(absl::UnavailableError("loading"));
  const Json json = Whole(R"({"prompt": "hi"})");
  EXPECT_EQ(json["error"]["code"], "engine_unavailable");
}

TEST_F(RunTest, AClientThatLeavesCancelsItsSequences) {
  generator_.SetPiece(0);
  options_.poll_interval = absl::Milliseconds(1);
  ASSERT_FALSE(Build(R"({"prompt": "hi", "n": 3})", false).has_value());
  {
    gateway::Run run(job_, *Model().tokenizer, generator_, metrics_, options_);
    const auto error = run.Begin([] { return true; });
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->status, kClientGone);
  }
  EXPECT_EQ(generator_.num_cancelled(), 3);
  EXPECT_THAT(
      metrics_.Serialize(generator_.view()),
      HasSubstr(R"(vllm:request_success_total{finished_reason="abort",model_name="tiny"} 3)"));
}

TEST_F(RunTest, AClientThatLeavesWhileTokensComeCancelsToo) {
  generator_.SetAnswer(std::string(400, 'a'));
  options_.poll_interval = absl::ZeroDuration();
  ASSERT_FALSE(Build(R"({"prompt": "hi", "max_tokens": 400})", false).has_value());
  {
    gateway::Run run(job_, *Model().tokenizer, generator_, metrics_, options_);
    ASSERT_FALSE(run.Begin(Never).has_value());
    std::string json;
    const auto error = run.Finish([] { return true; }, &json);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->status, kClientGone);
  }
  EXPECT_EQ(generator_.num_cancelled(), 1);
}

TEST_F(RunTest, AnUnknownModelIsNotFound) {
  const Json json = Whole(R"({"model": "gpt-9", "prompt": "hi"})");
  EXPECT_EQ(json["error"]["code"], "model_not_found");
  EXPECT_FALSE(Whole(R"({"model": "tiny", "prompt": "hi"})").contains("error"));
}

TEST(ServedModelTest, CollectsEndTokensOfAllFiles) {
  EXPECT_THAT(Model().end_token_ids, ElementsAre(256, 258));
  EXPECT_EQ(Model().max_context, 512);
}

TEST(ServedModelTest, RefusesMalformedConfigAndNamesTheFileOnly) {
  const testing::TinyModelDir dir;
  std::ofstream(dir.path() + "/generation_config.json") << R"({"eos_token_id": "x"})";
  const auto model = LoadServedModel(dir.path(), "m");
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("generation_config.json"));
  EXPECT_FALSE(absl::StrContains(model.status().message(), dir.path()));
}

TEST(ServedModelTest, AnEndTokenNestedWithoutEndIsRefused) {
  const testing::TinyModelDir dir;
  std::ofstream(dir.path() + "/generation_config.json")
      << R"({"eos_token_id": )" << std::string(500'000, '[') << std::string(500'000, ']') << "}";
  const auto model = LoadServedModel(dir.path(), "m");
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("generation_config.json: nested deeper"));
}

TEST(ServedModelTest, TheVocabularyMustReachEveryIdOfTheTokenizer) {
  const testing::TinyModelDir dir;
  const auto load = [&dir](const std::string& vocab_size) {
    std::ofstream(dir.path() + "/config.json") << R"({"vocab_size": )" << vocab_size << "}";
    return LoadServedModel(dir.path(), "m").status();
  };
  constexpr int kNumIds = testing::kTinyVocabSize - 1;
  EXPECT_TRUE(load(std::to_string(kNumIds)).ok());
  EXPECT_TRUE(load(std::to_string(kNumIds + 45)).ok());
  const absl::Status status = load(std::to_string(kNumIds - 1));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("config.json: vocab_size is "), HasSubstr("tokenizer.json has")));
}

}  // namespace
}  // namespace moe::gateway
