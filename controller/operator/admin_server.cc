#include "controller/operator/admin_server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace moe::controller {

struct AdminServer::State {
  httplib::Server server;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(
    const std::string& host, int port, Readiness readiness,
    const prometheus::Collectable* metrics) {
  auto state = std::make_unique<State>();
  httplib::Server& server = state->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(2, 2, 16); };
  server.set_payload_max_length(1024);
  server.set_read_timeout(5);
  server.set_write_timeout(5);
  server.set_keep_alive_max_count(100);
  // The library's default sets SO_REUSEPORT, which would hide a second server on the port.
  server.set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  server.Get("/metrics", [metrics](const httplib::Request&, httplib::Response& response) {
    const prometheus::TextSerializer serializer;
    response.set_content(serializer.Serialize(metrics->Collect()),
                         "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", "text/plain");
  });
  server.Get("/readyz", [readiness = std::move(readiness)](const httplib::Request&,
                                                           httplib::Response& response) {
    const std::string reason = readiness();
    if (!reason.empty()) response.status = 503;
    response.set_content(reason.empty() ? "ok\n" : reason + "\n", "text/plain");
  });
  if (port == 0) {
    port = server.bind_to_any_port(host);
    if (port <= 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", host));
  } else if (!server.bind_to_port(host, port)) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", host, ":", port));
  }
  state->thread = std::thread([&server] { server.listen_after_bind(); });
  server.wait_until_ready();
  return std::unique_ptr<AdminServer>(new AdminServer(std::move(state), port));
}

AdminServer::AdminServer(std::unique_ptr<State> state, int port)
    : state_(std::move(state)), port_(port) {}

AdminServer::~AdminServer() {
  state_->server.stop();
  state_->thread.join();
}

}  // namespace moe::controller
