// What strangers send to the HTTP port, from raw sockets: every one gets an error in JSON or a
// closed socket, the server lives on, and the next good request is answered as ever.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/http/fault_test.h"

namespace moe::gateway {
namespace {

using testing::BodyOf;
using testing::FaultTest;
using ::testing::HasSubstr;
using testing::kGoodBody;
using ::testing::Not;
using testing::PostRequest;
using testing::RawClient;
using testing::StatusOf;
using Json = nlohmann::json;

class HttpFaultsTest : public FaultTest {};

// Of this process, in which the server runs.
int64_t ResidentBytes() {
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  const int count = std::fscanf(file, "%ld %ld", &total_pages, &resident_pages);
  std::fclose(file);
  return count == 2 ? resident_pages * sysconf(_SC_PAGESIZE) : -1;
}

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
      {"an endless header line", "GET /health HTTP/1.1\r\nA: " + std::string(100000, 'a'), 431},
      {"10,000 headers", "GET /health HTTP/1.1\r\n" + many_headers + "\r\n", 431},
      {"a chunked body over the limit", chunked + "\r\n" + nine_mib + "0\r\n\r\n", 413},
      {"a length over the limit",
       "POST /v1/completions HTTP/1.1\r\nContent-Length: 8388609\r\n\r\n", 413},
      {"a chunk size of -2", chunked + "\r\n-2\r\nab\r\n", 400},
      {"a chunk size that overflows", chunked + "\r\nFFFFFFFFFFFFFFFFF\r\nab\r\n", 400},
      {"a length with a coding", chunked + "Content-Length: 4\r\n\r\n0\r\n\r\n", 400},
      {"two lengths",
       "POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n12345", 400},
      {"a compressed body",
       PostRequest("/v1/completions", std::string(1000, '\x1f'), "Content-Encoding: gzip\r\n"),
       415},
      {"multipart with a huge file name",
       "POST /v1/completions HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
       "Content-Length: 1048700\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"a\"; "
       "filename=\"" +
           std::string(1 << 20, 'f') + "\"\r\n\r\n",
       415},
      {"two slashes", PostRequest("//v1/completions", kGoodBody), 404},
      {"dots", PostRequest("/v1/../v1/completions", kGoodBody), 404},
      {"encoded", PostRequest("/v1%2Fcompletions", kGoodBody), 404},
      {"100,000 brackets", PostRequest("/v1/completions", std::string(100000, '[')), 400},
      {"no body", PostRequest("/v1/completions", ""), 400},
      {"an unknown method", "BREW /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"a wrong method", "DELETE /v1/completions HTTP/1.1\r\nHost: a\r\n\r\n", 405},
      {"a range nobody understands", "GET /health HTTP/1.1\r\nRange: bytes=a-b\r\n\r\n", 416},
      {"an Accept header nobody understands", "GET /health HTTP/1.1\r\nAccept: ;;;,,\r\n\r\n", 400},
  };
  StartAndAnswerOnce();
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const double before = Rejected("malformed") + Rejected("too_large");
    ExpectRefused(c.request, c.status);
    EXPECT_EQ(Rejected("malformed") + Rejected("too_large"), before + 1);
    ExpectStillGood();
  }
}

TEST_F(HttpFaultsTest, AnEndlessHeaderLineIsCutOffAndTakesNoMemory) {
  options_.http.connections.linger = absl::Milliseconds(100);
  StartAndAnswerOnce();
  const std::string piece(1 << 20, 'a');
  const int64_t before = ResidentBytes();
  RawClient client(port());
  client.Send("GET /health HTTP/1.1\r\nA: ");
  // The client goes on for as long as anybody takes it.
  int64_t num_sent = 0;
  while (client.Send(piece)) {
    num_sent += static_cast<int64_t>(piece.size());
    ASSERT_LT(ResidentBytes() - before, int64_t{256} << 20) << "after " << num_sent << " bytes";
  }
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, ARequestHiddenInABadlyFramedBodyIsNotAnswered) {
  StartAndAnswerOnce();
  const std::string hidden = "GET /version HTTP/1.1\r\nHost: a\r\n\r\n";
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
  for (const std::string& request :
       {head + "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + hidden,
        head + "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        head + "Transfer-Encoding: chunked\r\n\r\n-2\r\n" + hidden,
        head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden}) {
    RawClient client(port());
    client.Send(request);
    const std::string answer = client.ReceiveAll();
    EXPECT_TRUE(client.ended());
    ExpectJsonError(answer, 400);
    EXPECT_THAT(answer, Not(HasSubstr("\"version\"")));
  }
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, EncodedLineBreaksInAHeaderStayEncoded) {
  StartAndAnswerOnce();
  const std::string answer = Get("/health", "X-Request-Id: a%0D%0AEvil:1\r\n");
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_THAT(answer, HasSubstr("X-Request-Id: a%0D%0AEvil:1\r\n"));
  EXPECT_THAT(answer, Not(HasSubstr("\r\nEvil:")));
}

TEST_F(HttpFaultsTest, AKeyIsComparedAsItWasSent) {
  options_.admission.api_key = "a%41b";
  Start();
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer a%41b\r\n")), 200);
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer aAb\r\n")), 401);
  EXPECT_EQ(StatusOf(Get("/v1/models", "Authorization: Bearer a%2541b\r\n")), 401);
  EXPECT_EQ(StatusOf(Complete(kGoodBody, "Authorization: Bearer a%41b\r\n")), 200);
}

TEST_F(HttpFaultsTest, AddressesThatTheClientClaimsChangeNothing) {
  options_.admission.api_key = "secret";
  Start();
  EXPECT_EQ(StatusOf(Get("/v1/models",
                         "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
                         "REMOTE_ADDR: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n")),
            401);
  EXPECT_EQ(StatusOf(Get("/v1/models",
                         "REMOTE_ADDR: 10.9.8.7\r\nLOCAL_ADDR: 10.9.8.7\r\n"
                         "Authorization: Bearer secret\r\n")),
            200);
}

TEST_F(HttpFaultsTest, AProxyThatIsStillSendingIsNotOvertakenByItsAnswer) {
  options_.proxied_answer_delay = absl::Milliseconds(300);
  Start();
  for (const char* body : {kGoodBody, R"({"prompt": "hi", "stream": true})", "no JSON"}) {
    const absl::Time start = absl::Now();
    const int status = StatusOf(Complete(body, "X-Forwarded-For: 10.0.0.1\r\n"));
    EXPECT_EQ(status, body[0] == '{' ? 200 : 400);
    EXPECT_GE(absl::Now() - start, options_.proxied_answer_delay) << body;
  }
}

TEST_F(HttpFaultsTest, AClientWithoutAProxyWaitsForNoOther) {
  options_.proxied_answer_delay = absl::Hours(1);
  Start();
  EXPECT_EQ(StatusOf(Complete(kGoodBody)), 200);
}

TEST_F(HttpFaultsTest, SlowSocketsDoNotHoldUpOthers) {
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
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  ExpectStillGood();
  for (RawClient& client : slow) {
    client.Send("a");
  }
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, SlowSocketsAreClosedByTheirDeadline) {
  // Good clients have to be faster, on a busy machine too.
  options_.http.connections.head_timeout = absl::Seconds(2);
  options_.http.connections.body_timeout = absl::Seconds(2);
  options_.http.connections.idle_timeout = absl::Seconds(2);
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
  // Those that fit wait for the rest of their body.
  while (num_refused == 0) {
    for (RawClient& client : clients) {
      const std::string answer = client.ReceiveUntil("}}", absl::Milliseconds(100));
      if (!answer.empty()) {
        ExpectJsonError(answer, 503);
        ++num_refused;
      }
    }
  }
  clients.clear();
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, AWrongKeyIsRefusedOnEveryRoute) {
  options_.admission.api_key = "secret";
  Start();
  const std::vector<std::string> requests = {
      "GET /v1/models HTTP/1.1\r\n\r\n",
      "GET /v1/models/tiny HTTP/1.1\r\n\r\n",
      "GET /metrics HTTP/1.1\r\n\r\n",
      "GET /moe/status HTTP/1.1\r\n\r\n",
      "GET /version HTTP/1.1\r\n\r\n",
      "GET /nothing HTTP/1.1\r\n\r\n",
      "GET //v1/models HTTP/1.1\r\n\r\n",
      "GET /health/../v1/models HTTP/1.1\r\n\r\n",
      "GET /health%2f..%2fv1/models HTTP/1.1\r\n\r\n",
      "OPTIONS /v1/completions HTTP/1.1\r\n\r\n",
      PostRequest("/v1/completions", kGoodBody),
      PostRequest("/v1/chat/completions", "[", "Authorization: Bearer wrong\r\n"),
  };
  for (const std::string& request : requests) {
    ExpectRefused(request, 401);
  }
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  EXPECT_EQ(StatusOf(Complete(kGoodBody, "Authorization: Bearer secret\r\n")), 200);
  EXPECT_EQ(Rejected("unauthorized"), static_cast<double>(requests.size()));
  EXPECT_EQ(generator_.requests().size(), 1U);
}

TEST_F(HttpFaultsTest, ASecondServerOnThePortSaysSo) {
  StartAndAnswerOnce();
  ApiServerOptions options = options_;
  options.http.port = port();
  ApiServer second(options, Model(), generator_, metrics_);
  const absl::Status status = second.Start();
  EXPECT_THAT(std::string(status.message()), HasSubstr("can't listen on 127.0.0.1:"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("in use"));
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, LeavingBeforeTheFirstTokenCancels) {
  StartAndAnswerOnce();
  generator_.SetPiece(0);
  for (const char* body : {kGoodBody, R"({"prompt": "hi", "stream": true, "n": 2})"}) {
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

TEST_F(HttpFaultsTest, LeavingInMidStreamCancels) {
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

TEST_F(HttpFaultsTest, AClientThatNeverReadsMeetsTheWriteDeadline) {
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
    clients.back().Send(PostRequest("/v1/completions", kGoodBody));
  }
  while (generator_.num_live() < 2) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const std::string answer = Complete(kGoodBody);
  ExpectJsonError(answer, 503);
  EXPECT_THAT(answer, HasSubstr("Retry-After:"));
  EXPECT_EQ(StatusOf(Get("/health")), 200);
  generator_.SetPiece(1);
  for (RawClient& client : clients) {
    EXPECT_EQ(StatusOf(client.ReceiveAll()), 200);
  }
  EXPECT_EQ(Rejected("overload"), 1);
}

TEST_F(HttpFaultsTest, RequestIdsAreOpaque) {
  StartAndAnswerOnce();
  EXPECT_THAT(Get("/health", "X-Request-Id: abc-123\r\n"), HasSubstr("X-Request-Id: abc-123\r\n"));
  const std::string longest(128, 'a');
  EXPECT_THAT(Get("/health", "X-Request-Id: " + longest + "\r\n"),
              HasSubstr("X-Request-Id: " + longest + "\r\n"));
  struct Case {
    const char* sentence;
    std::string header;
  };
  const std::vector<Case> cases = {
      {"8 KB", "X-Request-Id: " + std::string(8000, 'a') + "\r\n"},
      {"one character too many", "X-Request-Id: " + std::string(129, 'a') + "\r\n"},
      {"a line break in it, so that another header follows", "X-Request-Id: \r\nEvil: 1\r\n"},
      {"bytes beyond ASCII", "X-Request-Id: caf\xc3\xa9\r\n"},
      {"two words", "X-Request-Id: a b\r\n"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const std::string answer = Get("/health", c.header);
    EXPECT_EQ(StatusOf(answer), 200);
    EXPECT_THAT(answer, ::testing::ContainsRegex("X-Request-Id: [0-9a-f]{16}\r\n"))
        << "one of the server's own";
    EXPECT_THAT(answer, Not(HasSubstr("Evil")));
  }
  ExpectRefused("GET /health HTTP/1.1\r\nX-Request-Id: a\rEvil: 1\r\n\r\n", 400);
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, UnknownModelsPathsAndMethodsAddNoSeries) {
  StartAndAnswerOnce();
  const auto ask = [this](const std::string& name) {
    const Json error = ExpectRefused(
        PostRequest("/v1/completions", R"({"model": ")" + name + R"(", "prompt": "a"})"), 404);
    EXPECT_EQ(error["code"], "model_not_found");
    EXPECT_EQ(error["param"], "model");
    ExpectRefused("GET /v1/models/" + name + " HTTP/1.1\r\nConnection: close\r\n\r\n", 404);
    ExpectRefused("GET /" + name + " HTTP/1.1\r\nConnection: close\r\n\r\n", 404);
    ExpectRefused(name + " /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400);
  };
  ask("x");
  const std::string before = metrics_.Serialize(generator_.view());
  for (int i = 0; i < 1000; ++i) {
    ask("strange" + std::to_string(i));
  }
  const std::string after = metrics_.Serialize(generator_.view());
  EXPECT_EQ(std::count(before.begin(), before.end(), '\n'),
            std::count(after.begin(), after.end(), '\n'));
  EXPECT_THAT(after, Not(HasSubstr("strange")));
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, AHandlerThatThrowsIsAFixedError) {
  StartAndAnswerOnce();
  generator_.ThrowAfter(0);
  const double before =
      Metric(R"(moe_http_requests_total{code="500",model_name="tiny",route="/v1/completions"})");
  EXPECT_EQ(before, -1) << "none so far";
  std::vector<Json> errors;
  for (const char* body : {kGoodBody, R"({"prompt": "hi", "stream": true})"}) {
    errors.push_back(ExpectRefused(PostRequest("/v1/completions", body), 500));
  }
  generator_.ThrowAfter(1);  // before the answer's head, too
  errors.push_back(ExpectRefused(PostRequest("/v1/completions", kGoodBody), 500));
  for (const Json& error : errors) {
    EXPECT_EQ(error["type"], "server_error");
    EXPECT_EQ(error["message"], errors[0]["message"]);
    EXPECT_THAT(error["message"].get<std::string>(), Not(HasSubstr("broken")));
  }
  EXPECT_EQ(
      Metric(R"(moe_http_requests_total{code="500",model_name="tiny",route="/v1/completions"})"),
      3);
  WaitUntilNothingLives();
  generator_.ThrowAfter(-1);
  ExpectStillGood();
}

TEST_F(HttpFaultsTest, WhatIsThrownInMidStreamEndsThatStreamWithAnError) {
  StartAndAnswerOnce();
  generator_.ThrowAfter(2);
  const std::string body =
      BodyOf(Send(PostRequest("/v1/completions", R"({"prompt": "hi", "stream": true})")));
  EXPECT_THAT(body, HasSubstr("data: {\"error\""));
  EXPECT_THAT(body, HasSubstr("server_error"));
  EXPECT_THAT(body, Not(HasSubstr("[DONE]")));
  EXPECT_THAT(body, Not(HasSubstr("broken")));
  WaitUntilNothingLives();
  generator_.ThrowAfter(-1);
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
