#include "controller/kube/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/kube/answer.h"
#include "controller/kube/clock.h"

namespace moe::kube {
namespace {

// A server whose machine vanished is noticed within 30 seconds, also by a watch that only reads.
void SetSocketOptions(socket_t socket) {
  const auto set = [socket](int level, int name, int value) {
    setsockopt(socket, level, name, &value, sizeof(value));
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 4);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
}

}  // namespace

std::string DescribeError(httplib::Error error) {
  switch (error) {
    case httplib::Error::Connection:
      return "no connection";
    case httplib::Error::ConnectionTimeout:
    case httplib::Error::Timeout:
      return "no answer in time";
    case httplib::Error::Read:
      return "the answer broke off, or did not come in time";
    case httplib::Error::SSLServerVerification:
      return "the server's certificate is not of the given authority";
    case httplib::Error::SSLServerHostnameVerification:
      return "the server's certificate is for another name";
    case httplib::Error::SSLLoadingCerts:
      return "the file of the certificate authority can't be read";
    default:
      return httplib::to_string(error);
  }
}

std::optional<absl::Duration> RetryAfterOf(const httplib::Response& response) {
  return response.has_header("Retry-After")
             ? ParseRetryAfter(response.get_header_value("Retry-After"))
             : std::nullopt;
}

absl::StatusOr<std::unique_ptr<Connection>> MakeConnection(const ClientOptions& options,
                                                           const ServerAddress& address) {
  auto connection = std::make_unique<Connection>();
  connection->since = MonotonicNow();
  if (address.tls) {
    auto tls = std::make_unique<httplib::SSLClient>(
        address.host, address.port, options.client_cert_file, options.client_key_file);
    if (!tls->is_valid()) {
      return absl::InvalidArgumentError(absl::StrCat("can't read the client certificate ",
                                                     options.client_cert_file, " and its key"));
    }
    tls->set_ca_cert_path(options.ca_file);
    tls->enable_server_certificate_verification(true);
    tls->enable_server_hostname_verification(true);
    connection->http = std::move(tls);
  } else {
    connection->http = std::make_unique<httplib::ClientImpl>(address.host, address.port);
  }
  httplib::ClientImpl& http = *connection->http;
  http.set_keep_alive(true);
  http.set_tcp_nodelay(true);
  http.set_path_encode(false);  // paths are encoded where they are made
  http.set_follow_location(false);
  http.set_socket_options(SetSocketOptions);
  http.set_connection_timeout(absl::ToChronoMilliseconds(options.connect_timeout));
  http.set_read_timeout(absl::ToChronoMilliseconds(options.request_timeout));
  http.set_write_timeout(absl::ToChronoMilliseconds(options.request_timeout));
  http.set_max_timeout(absl::ToChronoMilliseconds(options.request_timeout));
  return connection;
}

absl::StatusOr<std::unique_ptr<Connection>> ConnectionPool::Take() {
  std::vector<std::unique_ptr<Connection>> old;  // closed outside the lock
  {
    absl::MutexLock lock(&mutex_);
    while (!idle_.empty()) {
      std::unique_ptr<Connection> connection = std::move(idle_.back());
      idle_.pop_back();
      if (MonotonicNow() - connection->since < options_.max_connection_age) {
        connection->reused = true;
        return connection;
      }
      old.push_back(std::move(connection));
    }
  }
  return MakeConnection(options_, address_);
}

void ConnectionPool::Return(std::unique_ptr<Connection> connection) {
  absl::MutexLock lock(&mutex_);
  if (static_cast<int>(idle_.size()) < options_.max_idle_connections) {
    idle_.push_back(std::move(connection));
  }
}

void ConnectionPool::Clear() {
  std::vector<std::unique_ptr<Connection>> old;
  absl::MutexLock lock(&mutex_);
  old.swap(idle_);
}

}  // namespace moe::kube
