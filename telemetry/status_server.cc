#include "telemetry/status_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace moe::telemetry {
namespace {

constexpr char kText[] = "text/plain";

void SetBounds(httplib::Server* server) {
  server->new_task_queue = [] { return new httplib::ThreadPool(2, 2, 16); };
  server->set_payload_max_length(1024);
  server->set_read_timeout(5);
  server->set_write_timeout(5);
  server->set_keep_alive_max_count(100);
  // The library's default sets SO_REUSEPORT, which would hide a second server on the port.
  server->set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
}

void SetRoutes(StatusServerOptions options, httplib::Server* server) {
  server->Get("/metrics",
              [metrics = options.metrics](const httplib::Request&, httplib::Response& response) {
                const prometheus::TextSerializer serializer;
                response.set_content(serializer.Serialize(metrics->Collect()),
                                     "text/plain; version=0.0.4; charset=utf-8");
              });
  server->Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", kText);
  });
  if (!options.not_ready_reason) return;
  server->Get("/readyz", [not_ready_reason = std::move(options.not_ready_reason)](
                             const httplib::Request&, httplib::Response& response) {
    const std::string reason = not_ready_reason();
    if (!reason.empty()) response.status = 503;
    response.set_content(reason.empty() ? "ok\n" : reason + "\n", kText);
  });
}

}  // namespace

struct StatusServer::State {
  httplib::Server server;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(StatusServerOptions options) {
  const std::string address = options.address;
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address '", address, "' is not of the form HOST:PORT"));
  }
  const std::string host = address.substr(0, colon);
  auto state = std::make_unique<State>();
  httplib::Server& server = state->server;
  SetBounds(&server);
  SetRoutes(std::move(options), &server);
  if (port == 0) {
    port = server.bind_to_any_port(host);
    if (port <= 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
  } else if (!server.bind_to_port(host, port)) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
  }
  state->thread = std::thread([&server] { server.listen_after_bind(); });
  server.wait_until_ready();
  return std::unique_ptr<StatusServer>(
      new StatusServer(std::move(state), absl::StrCat(host, ":", port), port));
}

StatusServer::StatusServer(std::unique_ptr<State> state, std::string address, int port)
    : state_(std::move(state)), address_(std::move(address)), port_(port) {}

StatusServer::~StatusServer() {
  state_->server.stop();
  state_->thread.join();
}

}  // namespace moe::telemetry
