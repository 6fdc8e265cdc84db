#include "controller/kube/credentials.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace moe::kube {
namespace {

constexpr absl::Duration kTokenAge = absl::Seconds(10);
// The library refuses longer header lines.
constexpr size_t kMaxTokenBytes = 7000;

// A short file's text without the white space around it.
absl::StatusOr<std::string> ReadWord(const std::string& path, size_t max_bytes) {
  std::ifstream file(path, std::ios::binary);
  std::string text(max_bytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (file.bad() || text.empty()) {
    return absl::UnavailableError(absl::StrCat("can't read ", path));
  }
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is longer than ", max_bytes, " bytes"));
  }
  const absl::string_view word = absl::StripAsciiWhitespace(text);
  const bool visible = std::all_of(word.begin(), word.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
  if (word.empty() || !visible) {
    return absl::InvalidArgumentError(absl::StrCat(path, " does not hold one word of ASCII"));
  }
  return std::string(word);
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool IsLoopback(const std::string& host) {
  in_addr address{};
  const bool is_ipv4 = inet_pton(AF_INET, host.c_str(), &address) == 1;
  return host == "localhost" || host == "::1" ||
         (is_ipv4 && (ntohl(address.s_addr) >> 24) == IN_LOOPBACKNET);
}

}  // namespace

absl::StatusOr<ClientOptions> InClusterOptions(const std::string& folder) {
  const std::string host = Environment("KUBERNETES_SERVICE_HOST");
  const std::string port = Environment("KUBERNETES_SERVICE_PORT");
  if (host.empty() || port.empty()) {
    return absl::FailedPreconditionError(
        "this is no pod (KUBERNETES_SERVICE_HOST and _PORT are not set): name the API server");
  }
  ClientOptions options;
  const bool is_ipv6 = absl::StrContains(host, ":");
  options.server =
      absl::StrCat("https://", is_ipv6 ? "[" : "", host, is_ipv6 ? "]" : "", ":", port);
  options.ca_file = folder + "/ca.crt";
  options.token_file = folder + "/token";
  return options;
}

absl::StatusOr<std::string> InClusterNamespace(const std::string& folder) {
  return ReadWord(folder + "/namespace", 253);
}

absl::StatusOr<ServerAddress> ParseServer(absl::string_view url) {
  const auto invalid = [url](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("API server '", url, "': ", why));
  };
  ServerAddress address;
  absl::string_view rest = url;
  if (absl::ConsumePrefix(&rest, "https://")) {
    address.tls = true;
    address.port = 443;
  } else if (absl::ConsumePrefix(&rest, "http://")) {
    address.port = 80;
  } else {
    return invalid("it begins with neither https:// nor http://");
  }
  absl::ConsumeSuffix(&rest, "/");
  absl::string_view host = rest;
  absl::string_view port;
  if (absl::StartsWith(rest, "[")) {
    const size_t end = rest.find(']');
    if (end == absl::string_view::npos) {
      return invalid("']' is missing");
    }
    host = rest.substr(1, end - 1);
    port = rest.substr(end + 1);
  } else if (const size_t colon = rest.find(':'); colon != absl::string_view::npos) {
    host = rest.substr(0, colon);
    port = rest.substr(colon);
  }
  if (host.empty() || host.find_first_of("/?#@ ") != absl::string_view::npos) {
    return invalid("HOST[:PORT] is expected after the scheme");
  }
  if (!port.empty() &&
      (!absl::ConsumePrefix(&port, ":") || !absl::SimpleAtoi(port, &address.port) ||
       address.port < 1 || address.port > 65535)) {
    return invalid("the port is no number from 1 to 65535");
  }
  address.host = std::string(host);
  if (!address.tls && !IsLoopback(address.host)) {
    return invalid("plain http is for loopback addresses only");
  }
  return address;
}

absl::Status TokenFile::Read(absl::Time now) {
  absl::StatusOr<std::string> token = ReadWord(path_, kMaxTokenBytes);
  if (!token.ok()) {
    return token.status();
  }
  token_ = *std::move(token);
  read_at_ = now;
  return absl::OkStatus();
}

absl::StatusOr<std::string> TokenFile::Get(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  if (now - read_at_ >= kTokenAge) {
    absl::Status status = Read(now);
    if (!status.ok() && token_.empty()) {
      return status;
    }
  }
  return token_;
}

bool TokenFile::Refresh(const std::string& token, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  return token_ != token || (Read(now).ok() && token_ != token);
}

}  // namespace moe::kube
