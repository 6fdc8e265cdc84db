#include "identity/coordinator_route.h"

#include <string_view>
#include <utility>

#include "absl/strings/match.h"

namespace moe::identity {
namespace {

constexpr size_t kMaxAddressBytes = 256;

std::string HostOf(const std::string& address) {
  if (absl::StartsWith(address, "unix:")) return "";
  std::string host = address.substr(0, address.rfind(':'));
  // [::1]:7700
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return host;
}

// host:port. A name that gRPC would resolve by a scheme of its own is none.
bool IsAddress(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == address.size() ||
      address.size() > kMaxAddressBytes) {
    return false;
  }
  for (const char c : address.substr(0, colon)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != '.' && c != '-' && c != ':' && c != '[' && c != ']') return false;
  }
  for (const char c : address.substr(colon + 1)) {
    if (c < '0' || c > '9') return false;
  }
  return true;
}

}  // namespace

CoordinatorRoute::CoordinatorRoute(std::string service_address)
    : service_address_(std::move(service_address)), target_name_(HostOf(service_address_)) {}

std::string CoordinatorRoute::address() const {
  absl::MutexLock lock(&mu_);
  return leader_.empty() ? service_address_ : leader_;
}

bool CoordinatorRoute::OnCallEnd(const grpc::ClientContext& context, const grpc::Status& status) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto found = metadata.find(kLeaderMetadata);
  return OnCallEnd(status, found == metadata.end()
                               ? std::string()
                               : std::string(found->second.data(), found->second.size()));
}

bool CoordinatorRoute::OnCallEnd(const grpc::Status& status, const std::string& leader) {
  const bool redirected = status.error_code() == grpc::StatusCode::UNAVAILABLE && IsAddress(leader);
  absl::MutexLock lock(&mu_);
  const std::string next = redirected ? leader : "";
  if (status.ok() || next == leader_) return false;
  leader_ = next;
  return true;
}

}  // namespace moe::identity
