// All that a deployment has beside its pods, as one list.
//
// Pure. Tested by tests/controller/manifests/children_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_CHILDREN_H_
#define MOE_CONTROLLER_MANIFESTS_CHILDREN_H_

#include <string>
#include <vector>

#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"
#include "controller/manifests/context.h"

namespace moe::manifests {

struct Child {
  kube::ResourceType type;
  kube::Json object;  // with kAnnotationHash
};

// In the order in which they are made: what a pod needs comes before what makes one. Budgets and
// policies of groups are those of deployment.status.groups.
// REQUIRES: a spec that was accepted.
std::vector<Child> Children(const api::MoEDeployment& deployment, const Context& context);

// Those of them that the inspect pod needs, which comes before all else.
std::vector<Child> InspectChildren(const api::MoEDeployment& deployment);

// The bundle for the pods of all deployments of a namespace; it goes with the last of these.
Child CaBundle(const std::string& ns, const std::vector<const api::MoEDeployment*>& deployments,
               const std::string& ca_bundle_pem);

// The kinds that Children and CaBundle return.
const std::vector<kube::ResourceType>& ChildTypes();

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_CHILDREN_H_
