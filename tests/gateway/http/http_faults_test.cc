// What strangers send to the HTTP port, from raw sockets: every one gets an error in JSON or a
// closed socket, the server lives on, and the next good request is answered as ever.
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/http/test_server.h"

namespace moe::gateway {
namespace {

using ::testing::AnyOf;
using testing::BodyOf;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PostRequest;
using testing::RawClient;
using testing::ServerTest;
using testing::StatusOf;
using Json = nlohmann::json;

constexpr char kGood[] = R"({"prompt": "hi", "seed": 1})";

class HttpFaultsTest : public ServerTest {
 protected:
  // The part of an answer that does not change from request to request.
  std::string GoodText() {
    const Json json = Json::parse(BodyOf(Complete(kGood)), nullptr, false);
    return json.is_object() && json.contains("choices") ? json["choices"].dump() : "no answer";
  }

  void ExpectStillGood() { EXPECT_EQ(GoodText(), first_good_); }

  void StartAndAnswerOnce() {
    Start();
    first_good_ = GoodText();
    ASSERT_THAT(first_good_, HasSubstr("hello"));
  }

  static void ExpectJsonError(const std::string& answer, int status) {
    EXPECT_EQ(StatusOf(answer), status) << answer.substr(0, 500);
    const Json json = Json::parse(BodyOf(answer), nullptr, false);
    ASSERT_TRUE(json.is_object()) << answer.substr(0, 500);
    EXPECT_FALSE(json["error"]["message"].get<std::string>().empty());
    EXPECT_THAT(answer, Not(HasSubstr("/work")));
    EXPECT_THAT(answer, Not(HasSubstr("127.0.0.1")));
  }

  void WaitUntilNothingLives() {
    while (generator_.num_live() > 0) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  std::string first_good_;
};

TEST_F(HttpFaultsTest, MalformedRequestsGetAnErrorAndTheNextOneIsAnswered) {
  struct Case {
    const char* sentence;
    std::string request;
    int status;
  };
  std::string many_headers;
  for (int i = 0; i < 10000; ++i) {
    many_headers += "x-a: b\r\n";
  }
  const std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
      "application/json\r\nTransfer-Encoding: chunked\r\n";
  std::string nine_mib;
  for (int i = 0; i < 9; ++i) {
    nine_mib += "100000\r\n" + std::string(1 << 20, 'a') + "\r\n";
  }
  const std::vector<Case> cases = {
      {"input 1: an endless header line", "GET /health HTTP/1.1\r\nA: " + std::string(100000, 'a'),
       431},
      {"input 2: 10,000 headers", "GET /health HTTP/1.1\r\n" + many_headers + "\r\n", 431},
      {"input 3: a chunked body over the limit", chunked + "\r\n" + nine_mib + "0\r\n\r\n", 413},
      {"input 3: a length over the limit",
       "POST /v1/completions HTTP/1.1\r\nContent-Length: 8388609\r\n\r\n", 413},
      {"input 4: a chunk size of -2", chunked + "\r\n-2\r\nab\r\n", 400},
      {"input 4: a chunk size that overflows", chunked + "\r\nFFFFFFFFFFFFFFFFF\r\nab\r\n", 400},
      {"input 5: a length with a coding", chunked + "Content-Length: 4\r\n\r\n0\r\n\r\n", 400},
      {"input 5: two lengths",
       "POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n12345", 400},
      {"input 6: a compressed body",
       PostRequest("/v1/completions", std::string(1000, '\x1f'), "Content-Encoding: gzip\r\n"),
       415},
      {"input 7: multipart with a huge file name",
       "POST /v1/completions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
       "Content-Length: 1048700\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"a\"; "
       "filename=\"" +
           std::string(1 << 20, 'f') + "\"\r\n\r\n",
       415},
      {"input 11: two slashes", PostRequest("//v1/completions", kGood), 404},
      {"input 11: dots", PostRequest("/v1/../v1/completions", kGood), 404},
      {"input 11: encoded", PostRequest("/v1%2Fcompletions", kGood), 404},
      {"input 17: 100,000 brackets", PostRequest("/v1/completions", std::string(100000, '[')), 400},
      {"no body", PostRequest("/v1/completions", ""), 400},
      {"an unknown method", "BREW /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a wrong method", "DELETE /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n", 405},
      {"a range nobody understands", "GET /health HTTP/1.1\r\nRange: bytes=a-b\r\n\r\n", 416},
      {"an Accept header nobody understands", "GET /health HTTP/1.1\r\nAccept: ;;;,,\r\n\r\n", 400},
  };
  StartAndAnswerOnce();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const double before =
        Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="malformed"})") +
        Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="too_large"})");
    ExpectJsonError(Send(c.request), c.status);
    const double after =
        Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="malformed"})") +
        Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="too_large"})");
    EXPECT_EQ(after, before + 1);
    ExpectStillGood();
  }
}

TEST_F(HttpFaultsTest, Input8EncodedLineBreaksInAHeaderStayEncoded) {
  StartAndAnswerOnce();
  const std::string answer = Get("/health", "X-Request-Id: a%0D%0AEvil: 1\r\n");
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, Not(HasSubstr("\r\nEvil:")));
}

TEST_F(HttpFaultsTest, Input9ForwardedAddressesChangeNothing) {
  options_.admission.api_key = "secret";
  Start();
  EXPECT_EQ(StatusOf(Get("/v1/models", "X-Forwarded-For: 127.0.0.1\r\nREMOTE_ADDR: 127.0.0.1\r\n")),
            401);
}

TEST_F(HttpFaultsTest, Input10SlowSocketsDoNotHoldUpOthers) {
  StartAndAnswerOnce();
  std::vector<RawClient> slow;
  for (int i = 0; i < 500; ++i) {
    slow.emplace_back(port());
    ASSERT_TRUE(slow.back().connected());
    slow.back().Send(i % 2 == 0 ? "GET /health HT"
                                : "POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{");
  }
  // The limit is 100 ms; here only that nothing waits for the slow ones, which have 10 s and more.
  const absl::Time start = absl::Now();
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  ExpectStillGood();
  for (RawClient& client : slow) {
    client.Send("a");
  }
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, SlowSocketsAreClosedByTheirDeadline) {
  options_.http.connections.head_timeout = absl::Milliseconds(50);
  options_.http.connections.body_timeout = absl::Milliseconds(50);
  options_.http.connections.idle_timeout = absl::Milliseconds(50);
  StartAndAnswerOnce();
  RawClient idle(port());
  RawClient head(port());
  RawClient body(port());
  head.Send("GET /health");
  body.Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{");
  EXPECT_EQ(idle.ReceiveAll(), "");
  ExpectJsonError(head.ReceiveAll(), 408);
  ExpectJsonError(body.ReceiveAll(), 408);
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, TheOldestIdleConnectionGivesWayWhenThereAreTooMany) {
  options_.http.connections.max_connections = 4;
  StartAndAnswerOnce();
  std::vector<RawClient> idle;
  for (int i = 0; i < 20; ++i) {
    idle.emplace_back(port());
  }
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, BodiesAboveTheMemoryBudgetAreRefused) {
  options_.http.connections.max_buffered_bytes = 1 << 20;
  StartAndAnswerOnce();
  std::vector<RawClient> clients;
  int num_refused = 0;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(port());
    clients.back().Send("POST /v1/completions HTTP/1.1\r\nContent-Length: 600000\r\n\r\n" +
                        std::string(500000, ' '));
  }
  for (RawClient& client : clients) {
    const std::string answer = client.ReceiveUntil("}}", absl::Milliseconds(300));
    if (!answer.empty()) {
      ExpectJsonError(answer, 503);
      ++num_refused;
    }
  }
  EXPECT_GE(num_refused, 1);
  clients.clear();
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, Input13AWrongKeyIsRefusedOnEveryRoute) {
  options_.admission.api_key = "secret";
  Start();
  const std::vector<std::string> requests = {
      "GET /v1/models HTTP/1.1\r\n\r\n",
      "GET /v1/models/tiny HTTP/1.1\r\n\r\n",
      "GET /metrics HTTP/1.1\r\n\r\n",
      "GET /moe/status HTTP/1.1\r\n\r\n",
      "GET /version HTTP/1.1\r\n\r\n",
      "GET /nothing HTTP/1.1\r\n\r\n",
      "OPTIONS /v1/completions HTTP/1.1\r\n\r\n",
      PostRequest("/v1/completions", kGood),
      PostRequest("/v1/chat/completions", "[", "Authorization: Bearer wrong\r\n"),
  };
  for (const std::string& request : requests) {
    ExpectJsonError(Send(request), 401);
  }
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  EXPECT_EQ(StatusOf(Complete(kGood, "Authorization: Bearer secret\r\n")), 200);
  EXPECT_EQ(Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="unauthorized"})"),
            static_cast<double>(requests.size()));
  EXPECT_EQ(generator_.requests().size(), 1U);
}

TEST_F(HttpFaultsTest, Input14ASecondServerOnThePortSaysSo) {
  StartAndAnswerOnce();
  ApiServerOptions options = options_;
  options.http.port = port();
  ApiServer second(options, Model(), generator_, metrics_);
  const absl::Status status = second.Start();
  EXPECT_THAT(std::string(status.message()), HasSubstr("can't listen on 127.0.0.1:"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, Input15LeavingBeforeTheFirstTokenCancels) {
  StartAndAnswerOnce();
  generator_.SetPiece(0);
  for (const char* body : {kGood, R"({"prompt": "hi", "stream": true, "n": 2})"}) {
    RawClient client(port());
    client.Send(PostRequest("/v1/completions", body));
    while (generator_.num_live() == 0) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    client.Close();
    WaitUntilNothingLives();
  }
  EXPECT_EQ(generator_.num_cancelled(), 3);
  generator_.SetPiece(1);
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, Input15LeavingInMidStreamCancels) {
  StartAndAnswerOnce();
  generator_.SetAnswer(std::string(400, 'a'));
  for (const bool reset : {false, true}) {
    generator_.SetPiece(1);
    RawClient client(port());
    client.Send(
        PostRequest("/v1/completions", R"({"prompt": "hi", "stream": true, "max_tokens": 400})"));
    client.ReceiveUntil("data: ");
    generator_.SetPiece(0);
    if (reset) {
      client.Reset();
    } else {
      client.Close();
    }
    WaitUntilNothingLives();
  }
  generator_.SetPiece(1);
  generator_.SetAnswer("hello");
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, Input16AClientThatNeverReadsMeetsTheWriteDeadline) {
  options_.http.write_timeout = absl::Milliseconds(100);
  StartAndAnswerOnce();
  generator_.SetAnswer(std::string(490, 'a'));
  RawClient client(port(), /*receive_buffer_bytes=*/2048);
  // Megabytes of events: more than the socket's buffers hold.
  client.Send(PostRequest(
      "/v1/completions",
      R"({"prompt": "hi", "stream": true, "max_tokens": 490, "logprobs": 20, "n": 64})"));
  while (server_->num_active() == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  while (server_->num_active() > 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  WaitUntilNothingLives();
  EXPECT_GT(generator_.num_cancelled(), 0);
  generator_.SetAnswer("hello");
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, TooManyCompletionsAtOnceGetA503AndHealthGoesOn) {
  options_.http.max_posts = 2;
  Start();
  generator_.SetPiece(0);
  std::vector<RawClient> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back(port());
    clients.back().Send(PostRequest("/v1/completions", kGood));
  }
  while (generator_.num_live() < 2) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const std::string answer = Complete(kGood);
  ExpectJsonError(answer, 503);
  EXPECT_THAT(answer, HasSubstr("Retry-After:"));
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  generator_.SetPiece(1);
  for (RawClient& client : clients) {
    EXPECT_EQ(StatusOf(client.ReceiveAll()), 200);
  }
  EXPECT_EQ(Metric(R"(moe_rejected_requests_total{model_name="tiny",reason="overload"})"), 1);
}

TEST_F(HttpFaultsTest, Input34RequestIdsAreOpaque) {
  StartAndAnswerOnce();
  EXPECT_THAT(Get("/health", "X-Request-Id: abc-123\r\n"), HasSubstr("X-Request-Id: abc-123\r\n"));
  const std::string answer = Get("/health", "X-Request-Id: " + std::string(8000, 'a') + "\r\n");
  EXPECT_THAT(StatusOf(answer), AnyOf(Eq(200), Eq(431)));
  EXPECT_THAT(answer, Not(HasSubstr("aaaa")));
}

TEST_F(HttpFaultsTest, Input35UnknownModelsAddNoSeries) {
  StartAndAnswerOnce();
  Complete(R"({"model": "x", "prompt": "hi"})");
  const std::string before = metrics_.Serialize(generator_.view());
  for (int i = 0; i < 200; ++i) {
    ExpectJsonError(Complete(R"({"model": "model-)" + std::to_string(i) + R"(", "prompt": "hi"})"),
                    404);
  }
  const std::string after = metrics_.Serialize(generator_.view());
  EXPECT_EQ(std::count(before.begin(), before.end(), '\n'),
            std::count(after.begin(), after.end(), '\n'));
  EXPECT_THAT(after, Not(HasSubstr("model-1")));
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, ManyBadClientsAtOnce) {
  StartAndAnswerOnce();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 20; ++i) {
        RawClient client(port());
        client.Send(i % 2 == 0
                        ? PostRequest("/v1/completions", R"({"prompt": "hi", "stream": true})")
                        : "POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{");
        if ((i + t) % 3 == 0) {
          client.Reset();
        } else if ((i + t) % 3 == 1) {
          client.ReceiveUntil("data", absl::Milliseconds(20));
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  WaitUntilNothingLives();
  ExpectStillGood();
}

}  // namespace
}  // namespace moe::gateway
