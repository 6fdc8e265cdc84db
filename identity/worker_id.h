// What a worker process of a pod is called: by the pod's uid, and by its number where the pod has
// several. A certificate is for the pod, so each of its processes may use any of its names.
//
// Pure. Tested by tests/identity/worker_id_test.cc.
#ifndef MOE_IDENTITY_WORKER_ID_H_
#define MOE_IDENTITY_WORKER_ID_H_

#include <string>
#include <string_view>

namespace moe::identity {

// "POD_UID/PROCESS"; "POD_UID" for the only process of its pod.
std::string WorkerId(std::string_view pod_uid, int process, int num_processes);

// The pod of a worker's name. A name of another form is returned whole.
std::string_view PodUidOf(std::string_view worker_id);

}  // namespace moe::identity

#endif  // MOE_IDENTITY_WORKER_ID_H_
