#include "identity/peer_identity.h"

#include <grpc/grpc_security_constants.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace moe::identity {
namespace {

constexpr char kScheme[] = "moe://";
constexpr size_t kMaxUriBytes = 512;

bool IsName(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  });
}

std::optional<Role> ParseRole(std::string_view text) {
  for (const Role role : {Role::kWorker, Role::kGateway}) {
    if (text == RoleName(role)) return role;
  }
  return std::nullopt;
}

}  // namespace

const char* RoleName(Role role) { return role == Role::kWorker ? "worker" : "gateway"; }

std::string PeerIdentity::Uri() const {
  return absl::StrCat(kScheme, ns, "/", deployment, "/", RoleName(role), "/", pod_uid);
}

absl::StatusOr<PeerIdentity> ParsePeerIdentity(std::string_view uri) {
  absl::Status malformed =
      absl::InvalidArgumentError("not of the form moe://NAMESPACE/DEPLOYMENT/ROLE/POD_UID");
  if (uri.size() > kMaxUriBytes || !uri.starts_with(kScheme)) return malformed;
  uri.remove_prefix(sizeof(kScheme) - 1);
  const std::vector<std::string> parts = absl::StrSplit(std::string(uri), '/');
  if (parts.size() != 4) return malformed;
  const std::optional<Role> role = ParseRole(parts[2]);
  if (!role.has_value() || !IsName(parts[0]) || !IsName(parts[1]) || !IsName(parts[3])) {
    return malformed;
  }
  return PeerIdentity{.ns = parts[0], .deployment = parts[1], .role = *role, .pod_uid = parts[3]};
}

absl::StatusOr<PeerIdentity> PeerOf(const grpc::AuthContext& context) {
  const std::vector<grpc::string_ref> uris =
      context.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME);
  if (uris.size() != 1) return absl::UnauthenticatedError("a certificate is needed; see Certify");
  auto peer = ParsePeerIdentity(std::string_view(uris[0].data(), uris[0].size()));
  if (!peer.ok()) return absl::UnauthenticatedError("the certificate names nobody of ours");
  return peer;
}

}  // namespace moe::identity
