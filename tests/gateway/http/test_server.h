// An ApiServer on a free port over a scripted engine.
#ifndef MOE_TESTS_GATEWAY_HTTP_TEST_SERVER_H_
#define MOE_TESTS_GATEWAY_HTTP_TEST_SERVER_H_

#include <memory>
#include <string>
#include <utility>

#include "gateway/http/api_server.h"
#include "gateway/metrics/gateway_metrics.h"
#include "gtest/gtest.h"
#include "tests/gateway/testing/fake_generator.h"
#include "tests/gateway/testing/raw_client.h"
#include "tests/gateway/testing/tiny_model.h"

namespace moe::gateway::testing {

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    options_.http.port = 0;
    options_.version = "test";
    options_.run.poll_interval = absl::Milliseconds(5);
  }

  static const ServedModel& Model() {
    static const auto* const model = new ServedModel(LoadTinyModel());
    return *model;
  }

  void Start() {
    server_ = std::make_unique<ApiServer>(options_, Model(), generator_, metrics_);
    const absl::Status status = server_->Start();
    ASSERT_TRUE(status.ok()) << status;
  }

  int port() const { return server_->port(); }
  std::string Send(const std::string& request) const { return Exchange(port(), request); }
  std::string Complete(const std::string& body, const std::string& headers = "") const {
    return Send(PostRequest("/v1/completions", body, headers));
  }
  std::string Get(const std::string& target, const std::string& headers = "") const {
    return Send("GET " + target + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + headers +
                "\r\n");
  }
  // The value of a metric, or -1.
  double Metric(const std::string& name_and_labels) {
    const std::string text = metrics_.Serialize(generator_.view());
    const size_t at = text.find("\n" + name_and_labels + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name_and_labels.size() + 2));
  }

  ApiServerOptions options_;
  FakeGenerator generator_;
  GatewayMetrics metrics_{"tiny", 512};
  std::unique_ptr<ApiServer> server_;
};

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_HTTP_TEST_SERVER_H_
