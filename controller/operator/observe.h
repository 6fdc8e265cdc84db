// From what the caches and the coordinator hold to what DecidePlan looks at.
//
// Objects come from a server and may lack any field: what is not there is empty, and an object that
// is none of ours is left out.
//
// Pure. Tested by tests/controller/operator/observe_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_OBSERVE_H_
#define MOE_CONTROLLER_OPERATOR_OBSERVE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/reconcile/plan.h"
#include "proto/coordinator.pb.h"

namespace moe::controller {

using JsonPtr = std::shared_ptr<const kube::Json>;

// nullopt: no worker pod of this operator (a label is missing or is no number).
std::optional<reconcile::ObservedPod> ObservePod(const kube::Json& pod);

// When the worker's container ended; nullopt while it has not.
std::optional<absl::Time> EndOfPod(const kube::Json& pod);

// `pod`: the inspect pod, or null.
reconcile::ObservedInspection ObserveInspection(const kube::Json* pod);

// `deployment`: the gateway's Deployment, or null.
reconcile::ObservedGateway ObserveGateway(const kube::Json* deployment,
                                          const std::vector<JsonPtr>& gateway_pods);

// What the coordinator published of the group `index`; the wishes of its runtime are added by who
// knows them.
reconcile::ObservedGroup ObserveGroup(int index, const coordinator::v1::GroupState& state);

// Over all groups of a deployment; nullopt while no expert ran anything.
std::optional<api::ExpertLoadStatus> SummarizeExpertLoad(
    const std::vector<std::shared_ptr<const coordinator::v1::GroupState>>& groups, absl::Time now);

// The uid of the owner that controls the object; empty: none does.
std::string ControllerOf(const kube::Json& object);

// Whether the object's controller is the one with this uid.
bool OwnedBy(const kube::Json& object, const std::string& uid);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_OBSERVE_H_
