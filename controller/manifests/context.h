// What the manifests of a deployment need to know beside the resource itself.
#ifndef MOE_CONTROLLER_MANIFESTS_CONTEXT_H_
#define MOE_CONTROLLER_MANIFESTS_CONTEXT_H_

#include <string>

namespace moe::manifests {

struct Context {
  std::string operator_namespace;
  std::string coordinator_address;  // host:port, the Service in front of all controllers
  std::string worker_image;         // what the status pins
  std::string gateway_image;
  std::string ca_bundle_pem;  // no secret
};

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_CONTEXT_H_
