#include "telemetry/status_server.h"

#include <httplib.h>

#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/counter.h"
#include "prometheus/registry.h"

namespace moe::telemetry {
namespace {

using ::testing::HasSubstr;

class StatusServerTest : public ::testing::Test {
 protected:
  StatusServerTest() {
    prometheus::BuildCounter().Name("moe_things_total").Register(metrics_).Add({}).Increment(7);
  }

  // What a GET of `path` answers, "STATUS BODY".
  static std::string Get(const StatusServer& server, const std::string& path) {
    httplib::Client client("http://" + server.address());
    const auto answer = client.Get(path);
    if (!answer) return httplib::to_string(answer.error());
    return std::to_string(answer->status) + " " + answer->body;
  }

  prometheus::Registry metrics_;
};

TEST_F(StatusServerTest, TellsHealthReadinessAndMetrics) {
  std::string reason = "starting";
  const auto server = StatusServer::Start({.address = "127.0.0.1:0",
                                           .metrics = &metrics_,
                                           .not_ready_reason = [&reason] { return reason; }});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Get(**server, "/healthz"), "200 ok\n");
  EXPECT_EQ(Get(**server, "/readyz"), "503 starting\n");
  reason.clear();
  EXPECT_EQ(Get(**server, "/readyz"), "200 ok\n");
  EXPECT_THAT(Get(**server, "/metrics"), HasSubstr("moe_things_total 7\n"));
  EXPECT_THAT(Get(**server, "/"), HasSubstr("404"));
}

TEST_F(StatusServerTest, WhatHasNothingToBeReadyForIsNotAsked) {
  const auto server = StatusServer::Start(
      {.address = "127.0.0.1:0", .metrics = &metrics_, .not_ready_reason = nullptr});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_THAT(Get(**server, "/readyz"), HasSubstr("404"));
}

TEST_F(StatusServerTest, AddressesThatCannotBeListenedOn) {
  const auto first = StatusServer::Start(
      {.address = "127.0.0.1:0", .metrics = &metrics_, .not_ready_reason = nullptr});
  ASSERT_TRUE(first.ok()) << first.status();
  const std::pair<std::string, absl::StatusCode> kCases[] = {
      {(*first)->address(), absl::StatusCode::kUnavailable},  // it is taken
      {"127.0.0.1", absl::StatusCode::kInvalidArgument},
      {":9000", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:x", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:65536", absl::StatusCode::kInvalidArgument},
      {"127.0.0.1:-1", absl::StatusCode::kInvalidArgument},
  };
  for (const auto& [address, code] : kCases) {
    const auto server = StatusServer::Start(
        {.address = address, .metrics = &metrics_, .not_ready_reason = nullptr});
    EXPECT_EQ(server.status().code(), code) << address;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(address));
  }
}

}  // namespace
}  // namespace moe::telemetry
