// Who a process is, as its certificate says: moe://NAMESPACE/DEPLOYMENT/ROLE/POD_UID.
//
// Pure, but for PeerOf. Tested by tests/identity/peer_identity_test.cc.
#ifndef MOE_IDENTITY_PEER_IDENTITY_H_
#define MOE_IDENTITY_PEER_IDENTITY_H_

#include <grpcpp/security/auth_context.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moe::identity {

enum class Role { kWorker, kGateway };

// "worker", "gateway".
const char* RoleName(Role role);

struct PeerIdentity {
  std::string ns;
  std::string deployment;
  Role role = Role::kWorker;
  std::string pod_uid;

  std::string Uri() const;
  // "NAMESPACE/DEPLOYMENT", as groups and gateways name it.
  std::string DeploymentName() const { return ns + "/" + deployment; }

  friend bool operator==(const PeerIdentity&, const PeerIdentity&) = default;
};

// InvalidArgument unless `uri` is exactly what Uri() prints, with names that Kubernetes allows.
absl::StatusOr<PeerIdentity> ParsePeerIdentity(std::string_view uri);

// Who is at the other end of a TLS connection. Unauthenticated if it showed no certificate, or one
// without exactly one moe:// name. gRPC has verified the certificate before.
absl::StatusOr<PeerIdentity> PeerOf(const grpc::AuthContext& context);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_PEER_IDENTITY_H_
