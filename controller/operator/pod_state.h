// What a pod's JSON says of its life. A field that is not there counts as not so.
#ifndef MOE_CONTROLLER_OPERATOR_POD_STATE_H_
#define MOE_CONTROLLER_OPERATOR_POD_STATE_H_

#include "absl/time/time.h"
#include "controller/kube/api.h"

namespace moe::controller {

// component: manifests::kWorker, kGateway or kInspect.
bool IsComponent(const kube::Json& pod, const char* component);

// Of any object: it is being deleted.
bool IsTerminating(const kube::Json& object);

// All of its containers ended, well or not.
bool HasEnded(const kube::Json& pod);

// What a pod that is being deleted was given; zero for any other.
absl::Duration GraceOf(const kube::Json& pod);

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_POD_STATE_H_
