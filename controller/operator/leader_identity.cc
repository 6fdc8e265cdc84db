#include "controller/operator/leader_identity.h"

#include <arpa/inet.h>

#include "absl/strings/str_cat.h"

namespace moe::controller {

std::string LeaderIdentity(const std::string& pod_name, const std::string& pod_ip) {
  return absl::StrCat(pod_name, "_", pod_ip);
}

std::string LeaderAddress(const std::string& identity, int port) {
  const size_t separator = identity.rfind('_');  // no pod's name has one
  if (separator == std::string::npos) return "";
  const std::string ip = identity.substr(separator + 1);
  unsigned char bytes[sizeof(in6_addr)];
  if (inet_pton(AF_INET, ip.c_str(), bytes) == 1) return absl::StrCat(ip, ":", port);
  if (inet_pton(AF_INET6, ip.c_str(), bytes) == 1) return absl::StrCat("[", ip, "]:", port);
  return "";
}

}  // namespace moe::controller
