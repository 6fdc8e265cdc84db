// Tests gateway/http/metrics_server.h.
#include "gateway/http/metrics_server.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/gateway/http/test_server.h"

namespace moe::gateway {
namespace {

using testing::BodyOf;
using testing::Exchange;
using ::testing::HasSubstr;
using testing::ServerTest;
using testing::StatusOf;

class MetricsServerTest : public ServerTest {
 protected:
  std::string Ask(const MetricsServer& metrics, const std::string& method,
                  const std::string& target, const std::string& more = "") {
    return Exchange(
        metrics.port(),
        method + " " + target + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + more + "\r\n");
  }
};

TEST_F(MetricsServerTest, AnswersScrapersAndProbesWithoutAKeyAndNothingElse) {
  options_.admission.api_key = "secret";
  Start();
  MetricsServer metrics("127.0.0.1", 0, *server_);
  ASSERT_TRUE(metrics.Start().ok());
  const std::string scraped = Ask(metrics, "GET", "/metrics");
  EXPECT_EQ(StatusOf(scraped), 200);
  EXPECT_THAT(scraped, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(scraped, HasSubstr("moe_group_serving{group=\"0\""));
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/health")), 200);
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/ready")), 200);
  EXPECT_EQ(BodyOf(Ask(metrics, "HEAD", "/health")), "");
  for (const char* target : {"/v1/models", "/moe/status", "/version", "/", "//metrics"}) {
    EXPECT_EQ(StatusOf(Ask(metrics, "GET", target)), 404) << target;
  }
  EXPECT_EQ(StatusOf(Ask(metrics, "POST", "/v1/completions", "Content-Length: 0\r\n")), 404);
  EXPECT_EQ(StatusOf(Ask(metrics, "POST", "/v1/completions", "Content-Length: 2\r\n")), 413)
      << "it takes no bodies";
  // One right after the other: none has to wait for a place that another one takes.
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(StatusOf(Ask(metrics, "POST", "/metrics", "Content-Length: 0\r\n")), 405);
  }
  EXPECT_EQ(StatusOf(Ask(metrics, "DELETE", "/health")), 405);
  EXPECT_EQ(StatusOf(Get("/metrics")), 401) << "the API's own listener wants the key";
}

TEST_F(MetricsServerTest, HealthIsTheApisOwn) {
  Start();
  MetricsServer metrics("127.0.0.1", 0, *server_);
  ASSERT_TRUE(metrics.Start().ok());
  generator_.SetServing(false);
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/health")), 503);
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/ready")), 200);
  generator_.SetServing(true);
  server_->SetUnready();
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/health")), 503);
  EXPECT_EQ(StatusOf(Ask(metrics, "GET", "/ready")), 503);
}

TEST_F(MetricsServerTest, APortInUseIsAClearError) {
  Start();
  MetricsServer first("127.0.0.1", 0, *server_);
  ASSERT_TRUE(first.Start().ok());
  MetricsServer second("127.0.0.1", first.port(), *server_);
  EXPECT_THAT(std::string(second.Start().message()), HasSubstr("in use"));
}

}  // namespace
}  // namespace moe::gateway
