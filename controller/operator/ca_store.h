// The operator's certificate authority in the Secret moe-operator-ca of its namespace.
//
// Whoever comes first creates it: a create is atomic, and who comes second reads what the first one
// made. It is never replaced; to make a new one, delete the Secret and restart all controllers.
//
// Tested by tests/controller/operator/ca_store_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_CA_STORE_H_
#define MOE_CONTROLLER_OPERATOR_CA_STORE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "identity/certificate_authority.h"

namespace moe::controller {

// DataLoss for a Secret that holds no authority; what the API says otherwise.
absl::StatusOr<std::unique_ptr<identity::CertificateAuthority>> ReadOrCreateCa(
    kube::Api* api, const std::string& operator_namespace, absl::Time now);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_CA_STORE_H_
