// See metrics_server.h.
#include "gateway/http/metrics_server.h"

#include "gateway/http/admission.h"
#include "gateway/openai/api_error.h"

namespace moe::gateway {
namespace {

HttpServerOptions Options(const std::string& host, int port) {
  HttpServerOptions options;
  options.host = host;
  options.port = port;
  options.connections.max_connections = 64;
  options.connections.request.max_body_bytes = 0;
  options.num_control_threads = 2;
  options.max_control_queue = 32;
  return options;
}

HttpServer::Handlers Handlers(ApiServer& api) {
  HttpServer::Handlers handlers;
  handlers.wants_body = [](const RequestHead& /*head*/) { return false; };
  handlers.answer = [&api](const httplib::Request& request, httplib::Response& response) {
    const Route route = RouteOf(request.target);
    const bool open = route == Route::kMetrics || route == Route::kHealth || route == Route::kReady;
    if (open && (request.method == "GET" || request.method == "HEAD")) {
      api.AnswerOpen(route, response);
      return true;
    }
    response.status = open ? 405 : 404;
    response.set_content(
        ErrorJson(HttpError(response.status, open ? "This path does not take this method."
                                                  : "There is nothing at this path.")),
        "application/json");
    return true;
  };
  handlers.error_body = [](int status, const std::string& reason) {
    return ErrorJson(HttpError(status, reason));
  };
  // The API's counters are of its clients, not of scrapers.
  handlers.on_answer = [](const std::string& /*target*/, int /*status*/) {};
  return handlers;
}

}  // namespace

MetricsServer::MetricsServer(const std::string& host, int port, ApiServer& api)
    : http_(Options(host, port), Handlers(api)) {}

}  // namespace moe::gateway
