// Tests gateway/http/api_server.h and group_status.h: what good clients get.
#include "gateway/http/api_server.h"

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gateway/http/group_status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/http/test_server.h"

namespace moe::gateway {
namespace {

using testing::BodyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PostRequest;
using testing::RawClient;
using testing::ServerTest;
using testing::StatusOf;
using Json = nlohmann::json;

class ApiServerTest : public ServerTest {};

TEST_F(ApiServerTest, AnswersEveryRoute) {
  Start();
  EXPECT_EQ(Json::parse(BodyOf(Get("/v1/models")))["data"][0]["id"], "tiny");
  EXPECT_EQ(Json::parse(BodyOf(Get("/v1/models/tiny")))["max_model_len"], 512);
  EXPECT_EQ(StatusOf(Get("/v1/models/other")), 404);
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  EXPECT_EQ(Json::parse(BodyOf(Get("/version")))["version"], "test");
  EXPECT_EQ(Json::parse(BodyOf(Get("/moe/status")))["phase"], "ACTIVE");
  const std::string metrics = Get("/metrics");
  EXPECT_THAT(metrics, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, HasSubstr("vllm:num_requests_running{model_name=\"tiny\"} 0"));
  EXPECT_THAT(metrics, HasSubstr("moe_http_requests_total{code=\"404\""));
}

TEST_F(ApiServerTest, HeadAndOptionsAreSane) {
  Start();
  const std::string head = Send("HEAD /health HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(StatusOf(head), 200);
  EXPECT_EQ(BodyOf(head), "");
  const std::string options = Send("OPTIONS /v1/completions HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(StatusOf(options), 204);
  EXPECT_THAT(options, HasSubstr("Allow: POST, OPTIONS\r\n"));
}

TEST_F(ApiServerTest, ABodyWhereNoneBelongsIsIgnoredAndEndsTheConnection) {
  Start();
  const std::string answer =
      Send("GET /health HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /version HTTP/1.1\r\n\r\n");
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, Not(HasSubstr("version\":")));
}

TEST_F(ApiServerTest, HealthFollowsTheEngine) {
  Start();
  generator_.SetServing(false);
  const std::string answer = Get("/health");
  EXPECT_EQ(StatusOf(answer), 503);
  EXPECT_THAT(answer, HasSubstr("loading the model"));
  EXPECT_THAT(answer, HasSubstr("Retry-After:"));
  generator_.SetServing(true);
  EXPECT_EQ(StatusOf(Get("/health")), 200);
}

TEST_F(ApiServerTest, ReadyWhileRequestsAreTakenThoughTheEngineRecovers) {
  options_.admission.api_key = "k";
  Start();
  generator_.SetServing(false);
  EXPECT_EQ(StatusOf(Get("/health")), 503);
  EXPECT_EQ(StatusOf(Get("/ready")), 200) << "without a key";
  generator_.SetKnown(false);
  EXPECT_EQ(StatusOf(Get("/ready")), 200) << "what the engine was is known";
  server_->SetUnready();
  EXPECT_EQ(StatusOf(Get("/ready")), 503);
}

TEST_F(ApiServerTest, NotReadyWhileOnlyAnotherModelServes) {
  const struct {
    const char* sentence;
    bool known;
    bool serving;
    bool other_model_serves;
    bool ready;
  } kCases[] = {
      {"before the first group of all", false, false, false, true},
      {"a new gateway beside old groups", false, false, true, false},
      {"beside old groups, its own serves", true, true, true, true},
      {"an old gateway whose groups have gone", true, false, true, false},
      {"its own recovers and nobody else serves", true, false, false, true},
  };
  options_.hold = absl::Seconds(60);
  Start();
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.sentence);
    generator_.SetKnown(c.known);
    generator_.SetServing(c.serving);
    generator_.SetOtherModelServes(c.other_model_serves);
    EXPECT_EQ(StatusOf(Get("/ready")), c.ready ? 200 : 503);
    EXPECT_EQ(StatusOf(Get("/health")), c.serving ? 200 : 503);
  }
}

TEST_F(ApiServerTest, BeforeTheFirstEngineARequestIsRefusedOrHeld) {
  generator_.SetKnown(false);
  Start();
  const std::string refused = Complete(R"({"prompt": "hi"})");
  EXPECT_EQ(StatusOf(refused), 503);
  EXPECT_THAT(refused, HasSubstr("Retry-After:"));

  options_.hold = absl::Milliseconds(50);
  Start();
  EXPECT_EQ(StatusOf(Complete(R"({"prompt": "hi"})")), 503) << "held for a while";

  options_.hold = absl::Seconds(60);
  Start();
  RawClient held(port());
  held.Send(PostRequest("/v1/completions", R"({"prompt": "hi"})"));
  while (server_->num_active() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(generator_.num_live(), 0);
  generator_.SetKnown(true);
  EXPECT_THAT(held.ReceiveAll(), HasSubstr("hello"));
}

TEST_F(ApiServerTest, AHeldRequestEndsWithTheServer) {
  generator_.SetKnown(false);
  options_.hold = absl::Seconds(60);
  Start();
  RawClient held(port());
  held.Send(PostRequest("/v1/completions", R"({"prompt": "hi"})"));
  while (server_->num_active() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  server_->Stop();
  EXPECT_EQ(StatusOf(held.ReceiveAll()), 503);
}

TEST_F(ApiServerTest, AChangedKeyCountsFromTheNextRequestOn) {
  options_.admission.api_key = "old";
  Start();
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer old\r\n")), 200);
  server_->SetApiKey("new");
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer old\r\n")), 401);
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer new\r\n")), 200);
  EXPECT_EQ(StatusOf(Complete(R"({"prompt": "hi"})", "Authorization: Bearer old\r\n")), 401);
  EXPECT_EQ(StatusOf(Complete(R"({"prompt": "hi"})", "Authorization: Bearer new\r\n")), 200);
}

TEST_F(ApiServerTest, StreamsEventsWithTheHeadersThatProxiesNeed) {
  Start();
  const std::string answer =
      Send(PostRequest("/v1/chat/completions",
                       R"({"messages": [{"role": "user", "content": "q"}], "stream": true})"));
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/event-stream\r\n"));
  EXPECT_THAT(answer, HasSubstr("X-Accel-Buffering: no\r\n"));
  EXPECT_THAT(BodyOf(answer), HasSubstr("\n\ndata: [DONE]\n\n"));
  EXPECT_THAT(BodyOf(answer), HasSubstr(R"("role":"assistant")"));
}

TEST_F(ApiServerTest, AnOldClientGetsAStreamThatEndsWithTheConnection) {
  Start();
  const std::string body = R"({"prompt": "q", "stream": true})";
  const std::string answer =
      Send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body);
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, Not(HasSubstr("chunked")));
  EXPECT_THAT(answer, HasSubstr("data: [DONE]\n\n"));
}

TEST_F(ApiServerTest, AConnectionCarriesManyRequests) {
  Start();
  RawClient client(port());
  const std::string get = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
  for (int i = 0; i < 5; ++i) {
    client.Send(get);
    EXPECT_THAT(client.ReceiveUntil("\"}"), HasSubstr("200 OK"));
  }
  client.Send(get + get + "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string rest = client.ReceiveAll();
  EXPECT_THAT(rest, HasSubstr("\"version\":\"test\""));
}

TEST_F(ApiServerTest, ABodyAfterContinue) {
  Start();
  RawClient client(port());
  const std::string body = R"({"prompt": "hi"})";
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
      "Content-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  EXPECT_THAT(client.ReceiveUntil("\r\n\r\n"), HasSubstr("100 Continue"));
  client.Send(body);
  EXPECT_THAT(client.ReceiveAll(), HasSubstr("hello"));
}

TEST_F(ApiServerTest, AFullQueueIsA429WithRetryAfterAlsoForAStream) {
  Start();
  generator_.SetMaxLive(0);
  for (const char* body : {R"({"prompt": "hi"})", R"({"prompt": "hi", "stream": true})"}) {
    const std::string answer = Complete(body);
    EXPECT_EQ(StatusOf(answer), 429);
    EXPECT_THAT(answer, HasSubstr("Retry-After: 1\r\n"));
    EXPECT_THAT(answer, HasSubstr("rate_limit_error"));
  }
}

TEST_F(ApiServerTest, WithoutAnEngineA503ComesBack) {
  Start();
  generator_.SetStartStatus(absl::UnavailableError("x"));
  const std::string answer = Complete(R"({"prompt": "hi"})");
  EXPECT_EQ(StatusOf(answer), 503);
  EXPECT_THAT(answer, HasSubstr("Retry-After:"));
}

TEST_F(ApiServerTest, AnErrorInMidStreamEndsItWithoutDone) {
  Start();
  generator_.FailAfter(2, absl::UnavailableError("x"));
  const std::string answer = Complete(R"({"prompt": "hi", "stream": true})");
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(BodyOf(answer), HasSubstr(R"(data: {"error":)"));
  EXPECT_THAT(BodyOf(answer), Not(HasSubstr("[DONE]")));
}

TEST_F(ApiServerTest, DrainingRefusesNewCompletionsAndFinishesOldOnes) {
  Start();
  generator_.SetPiece(0);
  RawClient old(port());
  old.Send(PostRequest("/v1/completions", R"({"prompt": "hi", "stream": true})"));
  while (generator_.num_live() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  server_->SetUnready();
  EXPECT_EQ(StatusOf(Get("/health")), 503);
  server_->SetDraining();
  EXPECT_EQ(StatusOf(Complete(R"({"prompt": "hi"})")), 503);
  EXPECT_EQ(server_->num_active(), 1);
  EXPECT_EQ(server_->num_taken(), 1) << "what is refused keeps no gateway from ending";
  generator_.SetPiece(1);
  EXPECT_THAT(old.ReceiveAll(), HasSubstr("[DONE]"));
}

TEST_F(ApiServerTest, UnreadyEachAnswerIsTheLastOfItsConnection) {
  Start();
  RawClient client(port());
  server_->SetUnready();
  client.Send(PostRequest("/v1/completions", R"({"prompt": "hi"})"));
  const std::string answer = client.ReceiveAll();  // ends with the connection
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, HasSubstr("Connection: close"));
}

TEST_F(ApiServerTest, LargeBodiesArriveWhole) {
  options_.large_body_bytes = 1000;
  options_.max_large_bodies = 1;
  Start();
  // 5 MB of JSON around a small prompt.
  const std::string body = R"({"prompt": "hi", "x": ")" + std::string(5 << 20, 'x') + R"("})";
  EXPECT_EQ(StatusOf(Complete(body)), 200);
  EXPECT_EQ(StatusOf(Complete(body)), 200) << "the place was given back";
}

TEST(GroupStatusTest, HasWorkersAndOneRowPerLayer) {
  EngineView view;
  view.group.set_num_layers(2);
  view.group.set_num_experts(3);
  for (uint64_t i = 0; i < 6; ++i) {
    view.group.add_expert_tokens(i);
  }
  auto* worker = view.group.add_workers();
  worker->set_slot(1);
  worker->set_pid(77);
  worker->add_experts(2);
  worker->set_num_failures(3);
  worker->set_metrics_address("127.0.0.1:9");
  const Json json = Json::parse(GroupStatusJson("m", view));
  EXPECT_EQ(json["expert_tokens"], Json({{0, 1, 2}, {3, 4, 5}}));
  EXPECT_EQ(json["workers"][0]["pid"], 77);
  EXPECT_EQ(json["workers"][0]["experts"], Json::array({2}));
  EXPECT_EQ(json["workers"][0]["failures"], 3);
  EXPECT_EQ(json["model"], "m");
  view.group.add_expert_tokens(9);
  EXPECT_EQ(Json::parse(GroupStatusJson("m", view))["expert_tokens"], Json::array());
}

TEST(GroupStatusTest, HasEachGroupAndTheLoadOfAllAtTheTop) {
  EngineView view;
  for (const int index : {0, 1, 2, 3}) {
    GroupView& group = view.groups.emplace_back();
    group.name = "ns/m/" + std::to_string(index);
    group.serving = index == 1;
    group.state.set_group(group.name);
    group.state.set_phase(coordinator::v1::GroupState::ACTIVE);
    group.state.set_draining(index == 0);
    group.state.set_num_layers(1);
    group.state.set_num_experts(2);
    group.state.add_expert_tokens(index == 2 ? 100 : 1);
    group.state.add_expert_tokens(2);
    group.stats.set_num_running(5);
    group.outstanding_tokens = 70;
    group.welcome.set_model_digest("abc");
  }
  view.groups[2].state.set_num_experts(1);  // of another shape: its tokens can't be added
  view.groups[3].other_model = true;        // of another model: nor can these
  view.groups[3].state.set_model_digest("xyz");
  view.group = view.groups[1].state;
  const Json json = Json::parse(GroupStatusJson("m", view));
  EXPECT_EQ(json["expert_tokens"], Json({{2, 4}}));
  ASSERT_EQ(json["groups"].size(), 4U);
  EXPECT_EQ(json["groups"][3]["other_model"], true);
  EXPECT_EQ(json["groups"][3]["model_digest"], "xyz");
  const Json& first = json["groups"][0];
  EXPECT_EQ(first["group"], "ns/m/0");
  EXPECT_EQ(first["index"], 0);
  EXPECT_EQ(first["draining"], true);
  EXPECT_EQ(first["serving"], false);
  EXPECT_EQ(first["phase"], "ACTIVE");
  EXPECT_EQ(first["model_digest"], "abc");
  EXPECT_EQ(first["other_model"], false);
  EXPECT_EQ(first["engine"]["running"], 5);
  EXPECT_EQ(first["outstanding_tokens"], 70);
  EXPECT_EQ(first["expert_tokens"], Json({{1, 2}}));
}

}  // namespace
}  // namespace moe::gateway
