// A second listener for scrapers and probes inside a cluster: /metrics, /health and /ready, without
// a key, and nothing else. It keeps the API's own listener free of exceptions.
//
// Tested by tests/gateway/http/metrics_server_test.cc.
#ifndef MOE_GATEWAY_HTTP_METRICS_SERVER_H_
#define MOE_GATEWAY_HTTP_METRICS_SERVER_H_

#include <string>

#include "absl/status/status.h"
#include "gateway/http/api_server.h"
#include "gateway/http/http_server.h"

namespace moe::gateway {

class MetricsServer {
 public:
  // What it answers is the API server's, which outlives it.
  MetricsServer(const std::string& host, int port, ApiServer& api);
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  absl::Status Start() { return http_.Start(); }
  int port() const { return http_.port(); }

 private:
  HttpServer http_;
};

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_METRICS_SERVER_H_
