// Who holds a token: what Certify asks before it signs.
#ifndef MOE_CONTROLLER_COORDINATOR_AUTHENTICATOR_H_
#define MOE_CONTROLLER_COORDINATOR_AUTHENTICATOR_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "identity/peer_identity.h"

namespace moe::coordinator {

// A pod of a MoEDeployment.
struct PodIdentity {
  std::string ns;
  std::string deployment;
  identity::Role role = identity::Role::kWorker;
  std::string pod_uid;
  std::string pod_ip;  // goes into the certificate, so that others can tell whom they reached
};

// Thread-safe.
class Authenticator {
 public:
  virtual ~Authenticator() = default;

  // The pod that holds `token`, a bearer secret that is never logged. Blocks, for at most the API
  // client's deadline. Unauthenticated: the token is not valid (for this audience).
  // PermissionDenied: it is, but its holder is no worker or gateway of a MoEDeployment.
  // Unavailable: it can't be told now; worth trying again.
  virtual absl::StatusOr<PodIdentity> Review(std::string_view token) = 0;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_AUTHENTICATOR_H_
