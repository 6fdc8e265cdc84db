// A cluster for tests of the operator: an API server in this process, and a thread that does what
// scheduler, kubelet and the Deployment controller would. Pods of workers are processes' worth of
// the real thing: they get a certificate for their token, and a membership over TLS; they compute
// nothing.
#ifndef MOE_TESTS_CONTROLLER_OPERATOR_FAKE_CLUSTER_H_
#define MOE_TESTS_CONTROLLER_OPERATOR_FAKE_CLUSTER_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controller/kube/api.h"
#include "controller/operator/operator.h"
#include "tests/controller/kube/fake_api_server.h"

namespace moe::controller {

// One worker's process.
class FakeWorker;

class FakeCluster {
 public:
  static constexpr absl::Duration kPatience = absl::Seconds(90);  // for a loaded machine

  // `coordinator`: where workers connect first, host:port.
  explicit FakeCluster(std::string coordinator);
  ~FakeCluster();
  FakeCluster(const FakeCluster&) = delete;
  FakeCluster& operator=(const FakeCluster&) = delete;

  kube::testing::FakeApiServer& server() { return server_; }
  kube::testing::FakeObjects& objects() { return server_.objects(); }

  // Options of a controller that reaches this cluster and listens at `ip` (a loopback address).
  OperatorOptions Options(const std::string& name, const std::string& ip, int coordinator_port);

  // A MoEDeployment of the namespace "models" with a model of 4 experts, one worker for each.
  void CreateDeployment(const std::string& name, int replicas = 1);
  kube::Json Deployment(const std::string& name);
  // Waits for the status to be as `condition` says.
  bool AwaitStatus(const std::string& name,
                   const std::function<bool(const kube::Json& status)>& condition,
                   absl::Duration timeout = kPatience);
  bool AwaitReady(const std::string& name);

  std::vector<kube::Json> Pods(const std::string& component);
  // The epochs that the worker processes run, one for each.
  std::vector<uint64_t> RunningEpochs();
  // Ends a worker's process as kill -9 would.
  void KillWorker(const std::string& pod);
  // The node of a pod is gone: its process ends, and the pod stays as it is, also when it is
  // deleted.
  void LoseNodeOf(const std::string& pod);
  // Room for so many more pods; the default is enough for everything.
  void SetRoom(int num_pods) { room_.store(num_pods); }

 private:
  void Run();
  void Step();
  void StepPod(const kube::Json& pod);
  void StartPod(const kube::Json& pod);
  void StepGateways();
  kube::Json ReviewToken(const kube::Json& spec);

  const std::string coordinator_;
  const std::string folder_;  // for tokens and certificates
  kube::testing::FakeApiServer server_;
  std::atomic<int> room_{1 << 20};
  std::atomic<bool> stopping_{false};

  absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<FakeWorker>> workers_ ABSL_GUARDED_BY(mu_);  // by pod
  std::map<std::string, bool> lost_ ABSL_GUARDED_BY(mu_);                            // pods
  std::thread thread_;
};

// A port that was free on 127.0.0.1 and 127.0.0.2 just now.
int FreePort();

}  // namespace moe::controller

#endif  // MOE_TESTS_CONTROLLER_OPERATOR_FAKE_CLUSTER_H_
