#include "tests/controller/operator/fake_cluster.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/api/timestamp.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "gtest/gtest.h"
#include "identity/credentials.h"
#include "identity/enrollment.h"
#include "worker/membership/membership.h"

namespace moe::controller {

using kube::Json;

namespace {

std::string NewFolder() {
  std::string form = ::testing::TempDir() + "/operator-XXXXXX";
  EXPECT_NE(mkdtemp(form.data()), nullptr);
  return form;
}

std::string NameOf(const Json& object) { return kube::MetadataString(object, "name"); }

bool IsTerminating(const Json& object) { return object["metadata"].contains("deletionTimestamp"); }

// The value of a flag among a container's arguments.
std::string FlagOf(const Json& pod, const std::string& flag) {
  const Json& args = pod["spec"]["containers"][0]["args"];
  for (size_t i = 0; i + 1 < args.size(); ++i) {
    if (args[i] == flag) return args[i + 1];
  }
  return "";
}

}  // namespace

class FakeWorker : public membership::MembershipHandler {
 public:
  FakeWorker(const std::string& coordinator, const std::string& group, const std::string& uid,
             const std::string& folder)
      : group_(group), uid_(uid) {
    std::filesystem::create_directory(folder);
    std::ofstream(folder + "/token") << uid;
    identity::EnrollmentOptions options;
    options.coordinator = coordinator;
    options.token_file = folder + "/token";
    options.ca_file = folder + "/../ca.crt";
    options.identity_dir = folder + "/identity";
    options.first_retry = absl::Milliseconds(20);
    options.max_retry = absl::Milliseconds(200);
    auto enrollment = identity::Enrollment::Start(options);
    EXPECT_TRUE(enrollment.ok()) << enrollment.status();
    enrollment_ = *std::move(enrollment);
    thread_ = std::thread([this, coordinator] { Join(coordinator); });
  }
  ~FakeWorker() override { End(); }

  // As kill -9.
  void End() {
    enrollment_->Stop();
    if (thread_.joinable()) thread_.join();
    std::unique_ptr<membership::Membership> membership;
    {
      absl::MutexLock lock(&mu_);
      membership = std::move(membership_);
      running_ = 0;
    }
    if (membership != nullptr) membership->Stop(absl::ZeroDuration());
  }

  uint64_t running() {
    absl::MutexLock lock(&mu_);
    return running_;
  }
  bool dismissed() {
    absl::MutexLock lock(&mu_);
    return dismissed_;
  }

  void OnAssign(const coordinator::v1::GroupSpec& spec, int slot) override {
    absl::MutexLock lock(&mu_);
    rank_ = slot;
    num_experts_ = 0;
    for (const auto& entry : spec.placement()) {
      for (const uint32_t holder : entry.slots()) {
        num_experts_ += static_cast<int>(holder) == slot ? 1 : 0;
      }
    }
    coordinator::v1::Loaded loaded;
    loaded.set_bytes(100);
    membership_->SendLoaded(loaded);
  }
  void OnPrepare(uint64_t epoch, const std::vector<membership::EpochMember>& members) override {
    absl::MutexLock lock(&mu_);
    std::set<std::string> uids;
    for (const auto& member : members) uids.insert(member.worker_id);
    EXPECT_EQ(uids.size(), members.size()) << "two members for one slot";
    membership_->SendPrepared(epoch, rank_ == 0 ? absl::StrCat("secret", epoch) : "");
  }
  void OnJoin(uint64_t epoch, const std::string& bootstrap) override {
    EXPECT_EQ(bootstrap, absl::StrCat("secret", epoch));
    absl::MutexLock lock(&mu_);
    membership_->SendJoined(epoch);
  }
  void OnActivate(uint64_t epoch) override {
    absl::MutexLock lock(&mu_);
    running_ = epoch;
  }
  void OnAbort(uint64_t /*epoch*/, const std::string& /*reason*/) override {
    absl::MutexLock lock(&mu_);
    running_ = 0;
  }
  void OnDismiss(const std::string& /*reason*/) override {
    absl::MutexLock lock(&mu_);
    dismissed_ = true;
  }
  void OnConnectionState(bool /*connected*/) override {}
  coordinator::v1::Heartbeat MakeHeartbeat() override {
    absl::MutexLock lock(&mu_);
    coordinator::v1::Heartbeat heartbeat;
    for (int i = 0; i < 2 * num_experts_; ++i) heartbeat.add_expert_tokens(10);
    return heartbeat;
  }

 private:
  void Join(const std::string& coordinator) {
    if (!enrollment_->WaitForCertificate()) return;
    membership::MembershipOptions options;
    options.coordinator_address = coordinator;
    options.credentials = identity::MakeChannelCredentials(enrollment_->files());
    options.group = group_;
    options.worker_id = uid_;
    options.numerics_id = "cpu-1";
    options.engine_address = "127.0.0.1:1";
    options.exchange_address = "127.0.0.1:2";
    options.heartbeat_interval = absl::Milliseconds(200);
    options.max_retry = absl::Milliseconds(200);
    absl::MutexLock lock(&mu_);
    auto membership = membership::Membership::Start(options, this);
    EXPECT_TRUE(membership.ok()) << membership.status();
    membership_ = *std::move(membership);
  }

  const std::string group_;
  const std::string uid_;
  std::unique_ptr<identity::Enrollment> enrollment_;
  std::thread thread_;
  // Held where the handler uses membership_, which it may be called before it is set.
  absl::Mutex mu_;
  std::unique_ptr<membership::Membership> membership_ ABSL_GUARDED_BY(mu_);
  int rank_ ABSL_GUARDED_BY(mu_) = -1;
  int num_experts_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t running_ ABSL_GUARDED_BY(mu_) = 0;
  bool dismissed_ ABSL_GUARDED_BY(mu_) = false;
};

FakeCluster::FakeCluster(std::string coordinator)
    : coordinator_(std::move(coordinator)), folder_(NewFolder()) {
  server_.SetTokenReviewer([this](const Json& spec) { return ReviewToken(spec); });
  thread_ = std::thread([this] { Run(); });
}

FakeCluster::~FakeCluster() {
  stopping_.store(true);
  thread_.join();
  std::map<std::string, std::shared_ptr<FakeWorker>> workers;
  {
    absl::MutexLock lock(&mu_);
    workers.swap(workers_);
  }
  workers.clear();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

OperatorOptions FakeCluster::Options(const std::string& name, const std::string& ip,
                                     int coordinator_port) {
  OperatorOptions options;
  options.client.server = server_.url();
  options.client.request_timeout = absl::Seconds(5);
  options.ns = "moe-system";
  options.pod_name = name;
  options.pod_ip = ip;
  // Resolves here, and every controller's certificate has it.
  options.service_name = "localhost";
  options.worker_image = "worker:1";
  options.cuda_worker_image = "worker-cuda:1";
  options.gateway_image = "gateway:1";
  options.listen_host = ip;
  options.coordinator_port = coordinator_port;
  options.metrics_port = 0;
  options.identity_dir = absl::StrCat(folder_, "/", name);
  // Longer than a loaded machine holds up one request; who ends gives its lease back at once.
  options.lease_duration = absl::Seconds(10);
  options.lease_renew_deadline = absl::Seconds(8);
  options.lease_retry_period = absl::Milliseconds(100);
  options.first_backoff = absl::Milliseconds(20);
  return options;
}

void FakeCluster::CreateDeployment(const std::string& name, int replicas) {
  objects().Put(kube::kMoeDeployments,
                Json{{"metadata", {{"name", name}, {"namespace", "models"}}},
                     {"spec",
                      {{"model", {{"name", "demo"}, {"uri", "file:///models/demo"}}},
                       {"replicas", replicas},
                       {"parallelism", {{"expert", 4}}},
                       {"backend", "CPU"},
                       {"gateway", {{"replicas", 1}}}}}});
}

Json FakeCluster::Deployment(const std::string& name) {
  return objects().Find(kube::kMoeDeployments, {"models", name}).value_or(Json::object());
}

bool FakeCluster::AwaitStatus(const std::string& name,
                              const std::function<bool(const Json& status)>& condition,
                              absl::Duration timeout) {
  const bool held = objects().Await(
      kube::kMoeDeployments, {"models", name},
      [&condition](const Json* object) {
        return object != nullptr && object->contains("status") && condition((*object)["status"]);
      },
      timeout);
  if (!held) ADD_FAILURE() << "at the end: " << Deployment(name).dump(1);
  return held;
}

bool FakeCluster::AwaitReady(const std::string& name) {
  return AwaitStatus(name, [](const Json& status) {
    if (!status.contains("conditions")) return false;
    for (const Json& condition : status["conditions"]) {
      if (condition["type"] == "Ready") return condition["status"] == "True";
    }
    return false;
  });
}

std::vector<Json> FakeCluster::Pods(const std::string& component) {
  std::vector<Json> pods;
  for (Json& pod : objects().All(kube::kPods)) {
    if (manifests::LabelOf(pod, manifests::kLabelComponent) == component) {
      pods.push_back(std::move(pod));
    }
  }
  return pods;
}

std::vector<uint64_t> FakeCluster::RunningEpochs() {
  absl::MutexLock lock(&mu_);
  std::vector<uint64_t> epochs;
  for (const auto& [pod, worker] : workers_) epochs.push_back(worker->running());
  return epochs;
}

void FakeCluster::KillWorker(const std::string& pod) {
  std::shared_ptr<FakeWorker> worker;
  {
    absl::MutexLock lock(&mu_);
    const auto found = workers_.find(pod);
    if (found == workers_.end()) return;
    worker = std::move(found->second);
    workers_.erase(found);
  }
  worker->End();
  objects().Edit(kube::kPods, {"models", pod}, [](Json& object) {
    object["status"]["phase"] = "Failed";
    object["status"]["containerStatuses"] =
        Json::array({Json{{"name", "worker"},
                          {"state",
                           {{"terminated",
                             {{"exitCode", 137},
                              {"reason", "Error"},
                              {"message", "its last words"},
                              {"finishedAt", api::FormatTimestamp(absl::Now())}}}}}}});
  });
}

void FakeCluster::LoseNodeOf(const std::string& pod) {
  std::shared_ptr<FakeWorker> worker;
  {
    absl::MutexLock lock(&mu_);
    lost_[pod] = true;
    const auto found = workers_.find(pod);
    if (found == workers_.end()) return;
    worker = std::move(found->second);
    workers_.erase(found);
  }
  worker->End();
}

Json FakeCluster::ReviewToken(const Json& spec) {
  for (const Json& pod : objects().All(kube::kPods)) {
    if (pod["metadata"]["uid"] != spec["token"]) continue;
    return Json{{"authenticated", true},
                {"audiences", spec["audiences"]},
                {"user",
                 {{"username",
                   absl::StrCat("system:serviceaccount:", kube::MetadataString(pod, "namespace"),
                                ":", pod["spec"]["serviceAccountName"].get<std::string>())},
                  {"extra",
                   {{"authentication.kubernetes.io/pod-name", Json::array({NameOf(pod)})},
                    {"authentication.kubernetes.io/pod-uid", Json::array({spec["token"]})}}}}}};
  }
  return Json{{"authenticated", false}};
}

void FakeCluster::Run() {
  while (!stopping_.load()) {
    const int64_t version = objects().version();
    Step();
    // Also looked at when nothing changed: processes end by themselves.
    objects().AwaitChange(version, absl::Milliseconds(50));
  }
}

void FakeCluster::Step() {
  if (const auto bundle = objects().Find(kube::kConfigMaps, {"models", "moe-operator-ca"})) {
    // As the kubelet mounts it into every pod: whole, or not at all.
    std::ofstream(folder_ + "/ca.crt.new") << (*bundle)["data"]["ca.crt"].get<std::string>();
    std::filesystem::rename(folder_ + "/ca.crt.new", folder_ + "/ca.crt");
  }
  for (const Json& pod : objects().All(kube::kPods)) StepPod(pod);
  StepGateways();
}

void FakeCluster::StepPod(const Json& pod) {
  const std::string name = NameOf(pod);
  const kube::ObjectKey key{kube::MetadataString(pod, "namespace"), name};
  {
    absl::MutexLock lock(&mu_);
    if (lost_.contains(name)) return;
  }
  if (IsTerminating(pod)) {
    std::shared_ptr<FakeWorker> worker;
    {
      absl::MutexLock lock(&mu_);
      if (const auto found = workers_.find(name); found != workers_.end()) {
        // As `moe-worker --finish-epoch` after SIGTERM. No test waits for a real grace period.
        const bool has_time = pod["metadata"].value("deletionGracePeriodSeconds", 0) > 1;
        if (has_time && found->second->running() != 0 && !found->second->dismissed()) return;
        worker = std::move(found->second);
        workers_.erase(found);
      }
    }
    if (worker != nullptr) worker->End();
    objects().Finish(kube::kPods, key);
    return;
  }
  const bool gated =
      pod["spec"].contains("schedulingGates") && !pod["spec"]["schedulingGates"].empty();
  if (pod["status"]["phase"] == "Pending" && !gated) StartPod(pod);
  std::shared_ptr<FakeWorker> worker;
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = workers_.find(name); found != workers_.end()) worker = found->second;
  }
  if (worker != nullptr && worker->dismissed()) KillWorker(name);
}

void FakeCluster::StartPod(const Json& pod) {
  const std::string name = NameOf(pod);
  const kube::ObjectKey key{kube::MetadataString(pod, "namespace"), name};
  if (room_.load() <= 0) {
    objects().Edit(kube::kPods, key, [](Json& object) {
      object["status"]["conditions"] = Json::array(
          {Json{{"type", "PodScheduled"},
                {"status", "False"},
                {"reason", "Unschedulable"},
                {"message", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."}}});
    });
    return;
  }
  const bool inspects = manifests::LabelOf(pod, manifests::kLabelComponent) == manifests::kInspect;
  room_.fetch_sub(inspects ? 0 : 1);
  objects().Edit(kube::kPods, key, [inspects](Json& object) {
    object["spec"]["nodeName"] = "node-0";
    object["status"] = {{"phase", inspects ? "Succeeded" : "Running"},
                        {"podIP", "127.0.0.1"},
                        {"conditions", Json::array({Json{{"type", "Ready"}, {"status", "True"}}})}};
    if (inspects) {
      object["status"]["containerStatuses"] = Json::array({Json{
          {"name", "worker"},
          {"state",
           {{"terminated",
             {{"exitCode", 0},
              {"message",
               R"({"num_layers":2,"num_experts":4,"top_k":2,"weight_bytes":190464,"shape":{)"
               R"("hidden":64,"intermediate":32,"num_heads":4,"num_kv_heads":4,"head_dim":16,)"
               R"("vocab_size":100,"max_positions":4096,"tied_embeddings":false}})"}}}}}}});
    }
  });
  if (inspects) return;
  const std::string uid = kube::MetadataString(pod, "uid");
  auto worker = std::make_shared<FakeWorker>(coordinator_, FlagOf(pod, "--group"), uid,
                                             absl::StrCat(folder_, "/", uid));
  absl::MutexLock lock(&mu_);
  workers_[name] = std::move(worker);
}

void FakeCluster::StepGateways() {
  for (const Json& deployment : objects().All(kube::kDeployments)) {
    const int replicas = deployment["spec"]["replicas"];
    const Json status = deployment.value("status", Json::object());
    if (status.value("readyReplicas", 0) == replicas) continue;
    objects().Edit(kube::kDeployments,
                   {kube::MetadataString(deployment, "namespace"), NameOf(deployment)},
                   [replicas](Json& object) {
                     object["status"] = {{"replicas", replicas}, {"readyReplicas", replicas}};
                   });
  }
}

int FreePort() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    int port = 0;
    bool free = true;
    std::vector<int> sockets;
    for (const char* ip : {"127.0.0.1", "127.0.0.2"}) {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      sockets.push_back(fd);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<uint16_t>(port));
      inet_pton(AF_INET, ip, &address.sin_addr);
      free = free && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
      socklen_t size = sizeof(address);
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
      port = ntohs(address.sin_port);
    }
    for (const int fd : sockets) close(fd);
    if (free) return port;
  }
  ADD_FAILURE() << "no port is free";
  return 0;
}

}  // namespace moe::controller
