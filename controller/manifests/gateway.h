// What stands in front of the groups: the gateway's Deployment, its Service and its Ingress.
//
// Pure. Tested by tests/controller/manifests/gateway_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_GATEWAY_H_
#define MOE_CONTROLLER_MANIFESTS_GATEWAY_H_

#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"
#include "controller/manifests/context.h"

namespace moe::manifests {

// REQUIRES: a spec that was accepted.
kube::Json GatewayDeployment(const api::MoEDeployment& deployment, const Context& context);
kube::Json GatewayService(const api::MoEDeployment& deployment);
// REQUIRES: deployment.spec.ingress.
kube::Json GatewayIngress(const api::MoEDeployment& deployment);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_GATEWAY_H_
