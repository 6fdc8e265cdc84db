// Who may connect to whom; everything else is refused, where the cluster's network enforces it.
//
//   worker    in: engine from gateways of the deployment, exchange from workers of the group (any
//             port with CUDA: NCCL draws its own), metrics from any pod
//             out: DNS, the coordinator, exchange with workers of the group
//   gateway   in: HTTP from anywhere, metrics from any pod
//             out: DNS, the coordinator, engines of the deployment
//   inspect   in: nothing, out: DNS
//
// Where the worker's pod template has init containers, which fetch a model, worker and inspect pods
// may also open connections to ports 80 and 443 of anything. Policies add up: whoever needs more
// allows it in one of his own.
//
// Pure. Tested by tests/controller/manifests/network_policy_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_NETWORK_POLICY_H_
#define MOE_CONTROLLER_MANIFESTS_NETWORK_POLICY_H_

#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"
#include "controller/manifests/context.h"

namespace moe::manifests {

// For pods of `num_processes` workers each.
kube::Json GroupPolicy(const api::MoEDeployment& deployment, const Context& context, int group,
                       int num_processes);
kube::Json GatewayPolicy(const api::MoEDeployment& deployment, const Context& context);
kube::Json InspectPolicy(const api::MoEDeployment& deployment);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_NETWORK_POLICY_H_
