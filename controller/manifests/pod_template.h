// Merges a user's pod template into a pod that the operator made.
//
//   labels, annotations       both; the operator's win
//   containers, volumes, env  by name: new ones are added
//   volumeMounts              by mountPath
//   tolerations               appended
//   restartPolicy, schedulingGates, hostname, subdomain, nodeName
//                             stay the operator's: its bookkeeping depends on them
//   anything else             replaced by the template's value
//
// A container's fields are merged the same way. Malformed parts of a template are left out: the
// CRD's schema refuses them before they come here.
//
// Pure. Tested by tests/controller/manifests/pod_template_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_POD_TEMPLATE_H_
#define MOE_CONTROLLER_MANIFESTS_POD_TEMPLATE_H_

#include "controller/kube/api.h"

namespace moe::manifests {

// `pod` has metadata and spec; `pod_template` is a PodTemplateSpec or null.
void MergePodTemplate(const kube::Json& pod_template, kube::Json* pod);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_POD_TEMPLATE_H_
