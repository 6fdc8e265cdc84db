// What tells the worker processes of a pod apart. Their name is the pod's uid, with the process's
// number where the pod has several. A certificate is for the pod, so each of its processes may use
// any of its names.
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

// Process i of a pod listens i times as much above the ports of process 0.
inline constexpr int kProcessPortStride = 10;

}  // namespace moe::identity

#endif  // MOE_IDENTITY_WORKER_ID_H_
