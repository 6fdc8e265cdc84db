// See http_server.h.
#include "gateway/http/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/http/socket_stream.h"

namespace moe::gateway {
namespace {

constexpr int kBacklog = 1024;

struct Listener {
  int fd = -1;
  int port = 0;
};

int PortOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// SO_REUSEADDR only: with SO_REUSEPORT, which cpp-httplib would set, a second server could bind the
// same port and take half of the clients without a word.
absl::StatusOr<Listener> Listen(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("can't listen on '", host, "': ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  absl::Status status = absl::InternalError("no address");
  for (const addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
    const int fd = socket(entry->ai_family, entry->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                          entry->ai_protocol);
    if (fd < 0) {
      status = absl::ErrnoToStatus(errno, absl::StrCat("can't listen on ", host, ":", port));
      continue;
    }
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    if (bind(fd, entry->ai_addr, entry->ai_addrlen) == 0 && listen(fd, kBacklog) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
      return Listener{.fd = fd, .port = PortOf(address)};
    }
    status = absl::ErrnoToStatus(errno, absl::StrCat("can't listen on ", host, ":", port));
    close(fd);
  }
  return status;
}

const char* ReasonPhrase(int status) {
  switch (status) {
    case 400:
      return "Bad Request";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 417:
      return "Expectation Failed";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

// The library decodes "%0D%0A" in the values of headers and adds headers of its own; what handlers
// see is what the client sent.
void KeepAsSent(const RequestHead& head, httplib::Request& request) {
  constexpr char kLength[] = "Content-Length";  // of the body as it was read
  httplib::Headers headers;
  headers.emplace(kLength, request.get_header_value(kLength));
  for (const auto& [name, value] : head.headers) {
    if (!absl::EqualsIgnoreCase(name, kLength) && request.has_header(name)) {
      headers.emplace(name, value);
    }
  }
  request.headers = std::move(headers);
}

}  // namespace

HttpServer::HttpServer(HttpServerOptions options, Handlers handlers)
    : options_(std::move(options)),
      handlers_(std::move(handlers)),
      control_pool_(options_.num_control_threads, options_.max_control_queue),
      post_pool_(options_.max_posts, 0) {
  Configure();
}

HttpServer::~HttpServer() { Stop(); }

void HttpServer::Configure() {
  set_payload_max_length(options_.connections.request.max_body_bytes + 1);
  set_keep_alive_timeout(
      static_cast<time_t>(absl::ToInt64Seconds(options_.connections.idle_timeout)));
  set_keep_alive_max_count(1000000);
  set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    return handlers_.answer(request, response) ? HandlerResponse::Handled
                                               : HandlerResponse::Unhandled;
  });
  for (const std::string& path : handlers_.post_paths) {
    Post(path, [this](const httplib::Request& request, httplib::Response& response,
                      const httplib::ContentReader& reader) {
      handlers_.post(request, response, reader);
    });
  }
  set_exception_handler([this](const httplib::Request& /*request*/, httplib::Response& response,
                               const std::exception_ptr& /*exception*/) {
    // What was thrown stays inside: it may hold a path.
    response.headers.clear();
    response.status = 500;
    response.set_content(handlers_.error_body(500, ""), "application/json");
  });
  set_error_handler([this](const httplib::Request& /*request*/, httplib::Response& response) {
    if (response.body.empty() && !response.content_provider_) {
      response.set_content(handlers_.error_body(response.status, ""), "application/json");
    }
    return HandlerResponse::Handled;
  });
  set_post_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    handlers_.on_answer(request.target, response.status);
  });
}

absl::Status HttpServer::Start() {
  absl::StatusOr<Listener> listener = Listen(options_.host, options_.port);
  if (!listener.ok()) {
    return listener.status();
  }
  port_ = listener->port;
  svr_sock_ = listener->fd;  // the library ends streams when it has no socket
  ConnectionLoop::Callbacks callbacks;
  callbacks.wants_body = handlers_.wants_body;
  callbacks.serve = [this](std::unique_ptr<Connection>& connection) { return Serve(connection); };
  callbacks.error_response = [this](int status, const std::string& reason) {
    handlers_.on_answer("", status);
    return ErrorResponse(status, reason);
  };
  loop_ =
      std::make_unique<ConnectionLoop>(listener->fd, options_.connections, std::move(callbacks));
  return loop_->Start() ? absl::OkStatus() : absl::InternalError("can't watch sockets with epoll");
}

void HttpServer::Stop() {
  if (loop_ != nullptr) {
    loop_->Stop();
  }
  control_pool_.Stop();
  post_pool_.Stop();
  loop_ = nullptr;
}

std::string HttpServer::ErrorResponse(int status, const std::string& reason) const {
  const std::string body = handlers_.error_body(status, reason);
  return absl::StrCat("HTTP/1.1 ", status, " ", ReasonPhrase(status),
                      "\r\nContent-Type: application/json\r\nContent-Length: ", body.size(),
                      status == 503 ? "\r\nRetry-After: 1" : "", "\r\nConnection: close\r\n\r\n",
                      body);
}

bool HttpServer::Serve(std::unique_ptr<Connection>& connection) {
  // Where no path takes one, a POST is refused as fast as anything else is answered.
  const bool is_post = connection->head().method == "POST" && !handlers_.post_paths.empty();
  WorkerPool& pool = is_post ? post_pool_ : control_pool_;
  const absl::Duration write_timeout =
      is_post ? options_.write_timeout : options_.control_write_timeout;
  // A std::function must be copyable, so the connection travels behind a shared pointer.
  const auto holder = std::make_shared<std::unique_ptr<Connection>>(std::move(connection));
  if (pool.Submit([this, holder, write_timeout] { Answer(std::move(*holder), write_timeout); })) {
    return true;
  }
  connection = std::move(*holder);
  return false;
}

void HttpServer::Answer(std::unique_ptr<Connection> connection, absl::Duration write_timeout) {
  const RequestHead head = connection->head();  // the connection's next one may replace it
  // A stream to an HTTP/1.0 client ends with its connection.
  const bool close_asked = leaving_.load() || head.http_1_0 ||
                           absl::EqualsIgnoreCase(head.Header("Connection"), "close");
  std::string request = connection->TakeRequest();
  SocketStream stream(connection->fd(), std::move(request), write_timeout,
                      [&connection] { connection->ReleaseMemory(); });
  const bool must_close = connection->must_close() || close_asked;
  bool closed = false;
  bool answered = false;
  // The library catches what handlers throw, but not what it throws itself while it writes. That
  // costs this client its connection and nobody else anything.
  try {
    answered = process_request(stream, "", 0, "", 0, /*close_connection=*/must_close, closed,
                               [&head](httplib::Request& parsed) { KeepAsSent(head, parsed); });
  } catch (...) {
    handlers_.on_answer(head.target, 500);
  }
  const bool keep = answered && !closed && !must_close && !stream.failed() && stream.status() < 400;
  loop_->Return(std::move(connection), keep);
}

}  // namespace moe::gateway
