// The controller of a cluster: watches MoEDeployments, and leads their groups while it holds the
// Lease.
//
// Several may run. Each keeps its coordinator ready, and its caches but for pods, which are read
// when it comes to lead; the one that holds the Lease acts. A standby answers workers and gateways
// with the leader's address. Losing the Lease ends all acting at once, and what was sent before is
// fenced by resourceVersions, uids and terms. Workers never notice: their epochs run on.
//
// Every right that this needs from the API server is listed in README.md.
//
// Tested by tests/controller/operator/operator_test.cc and operator_fault_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_OPERATOR_H_
#define MOE_CONTROLLER_OPERATOR_OPERATOR_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/kube/credentials.h"
#include "controller/kube/lease.h"

namespace moe::controller {

struct OperatorOptions {
  kube::ClientOptions client;
  std::string ns = {};                 // the operator's own
  std::string pod_name = {};           // unique among controllers
  std::string pod_ip = {};             // where other pods reach this one
  std::string service_name = {};       // in front of all controllers' coordinators
  std::string worker_image = {};       // of deployments that have none pinned
  std::string cuda_worker_image = {};  // the same, with backend CUDA
  std::string gateway_image = {};
  std::vector<std::string> watch_namespaces = {};  // empty: all
  // Whether nodes with GPUs are watched; without, mode: Auto can't decide for backend CUDA.
  bool read_nodes = true;

  std::string listen_host = "0.0.0.0";
  int coordinator_port = 7700;  // 0: any free one
  int metrics_port = 7701;      // 0: any free one
  // Private folder for the coordinator's key and certificate.
  std::string identity_dir = {};
  int reconcile_threads = 4;

  std::string lease_name = "moe-operator";
  absl::Duration lease_duration = absl::Seconds(15);
  absl::Duration lease_renew_deadline = absl::Seconds(10);
  absl::Duration lease_retry_period = absl::Seconds(2);
  // Of watches, and of attempts to begin.
  absl::Duration first_backoff = absl::Milliseconds(800);

  // It can't go on (the port is taken); called once, by a thread of the operator.
  std::function<void(const absl::Status&)> on_failure = {};
};

// Methods are thread-safe.
class Operator {
 public:
  // Starts and returns; what needs the API server follows as soon as that answers. InvalidArgument
  // for options that can't be; Unavailable if the metrics port is taken.
  static absl::StatusOr<std::unique_ptr<Operator>> Start(OperatorOptions options);

  // Stop() if not yet done.
  ~Operator();
  Operator(const Operator&) = delete;
  Operator& operator=(const Operator&) = delete;

  // Releases the Lease and ends. Pods are not touched.
  void Stop();

  bool leads() const;
  // Empty when it can do its part, as leader or standby.
  std::string NotReadyReason() const;
  // host:port with the port that was drawn; empty before it listens.
  std::string coordinator_address() const;
  int metrics_port() const;

 private:
  class Impl;
  explicit Operator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_OPERATOR_H_
