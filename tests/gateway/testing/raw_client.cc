#include "tests/gateway/testing/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

namespace moe::gateway::testing {

RawClient::RawClient(int port, int receive_buffer_bytes) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer_bytes > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    Close();
  }
}

RawClient::~RawClient() { Close(); }

void RawClient::Close() {
  if (fd_ >= 0) {
    close(fd_);
    fd_ = -1;
  }
}

void RawClient::Reset() {
  const linger reset{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  Close();
}

bool RawClient::Send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t count = send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) {
      return false;
    }
    sent += static_cast<size_t>(count);
  }
  return true;
}

std::string RawClient::ReceiveAll(absl::Duration patience) { return ReceiveUntil("", patience); }

std::string RawClient::ReceiveUntil(const std::string& end, absl::Duration patience) {
  std::string received;
  char buffer[4096];
  while (end.empty() || received.find(end) == std::string::npos) {
    pollfd poll_fd{.fd = fd_, .events = POLLIN, .revents = 0};
    if (poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) <= 0) {
      break;
    }
    const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
    if (count <= 0) {
      ended_ = true;
      break;
    }
    received.append(buffer, static_cast<size_t>(count));
  }
  return received;
}

std::string Exchange(int port, const std::string& request) {
  RawClient client(port);
  client.Send(request);
  return client.ReceiveAll();
}

std::string PostRequest(const std::string& path, const std::string& body,
                        const std::string& more_headers) {
  return "POST " + path +
         " HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n" +
         more_headers + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

int StatusOf(const std::string& answer) {
  return answer.rfind("HTTP/1.1 ", 0) == 0 ? std::atoi(answer.c_str() + 9) : 0;
}

std::string BodyOf(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  if (end == std::string::npos) {
    return "";
  }
  const std::string headers = answer.substr(0, end);
  const std::string body = answer.substr(end + 4);
  if (headers.find("Transfer-Encoding: chunked") == std::string::npos) {
    return body;
  }
  std::string joined;
  size_t position = 0;
  for (;;) {
    const size_t size = std::strtoul(body.c_str() + position, nullptr, 16);
    const size_t line_end = body.find("\r\n", position);
    if (size == 0 || line_end == std::string::npos) {
      return joined;
    }
    joined += body.substr(line_end + 2, size);
    position = line_end + 2 + size + 2;
  }
}

}  // namespace moe::gateway::testing
