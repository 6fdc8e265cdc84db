// The operator as a whole: a real API server's protocol over HTTP, real gRPC over TLS, workers that
// compute nothing.
#include "controller/operator/operator.h"

#include <httplib.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/operator/fake_cluster.h"

namespace moe::controller {
namespace {

using kube::Json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class OperatorTest : public ::testing::Test {
 protected:
  std::unique_ptr<Operator> StartOperator(const std::string& name = "controller-1",
                                          const std::string& ip = "127.0.0.1") {
    auto started = Operator::Start(cluster_.Options(name, ip, port_));
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? *std::move(started) : nullptr;
  }
  // Until every worker runs one and the same epoch; returns it.
  uint64_t AwaitOneEpoch(size_t num_workers) {
    const absl::Time deadline = absl::Now() + FakeCluster::kPatience;
    while (absl::Now() < deadline) {
      const std::vector<uint64_t> epochs = cluster_.RunningEpochs();
      if (epochs.size() == num_workers && epochs[0] > 0 &&
          std::all_of(epochs.begin(), epochs.end(), [&](uint64_t e) { return e == epochs[0]; })) {
        return epochs[0];
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    ADD_FAILURE() << "the workers run no epoch together";
    return 0;
  }
  bool AwaitTrue(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + FakeCluster::kPatience;
    while (absl::Now() < deadline) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  std::set<std::string> WorkerNames() {
    std::set<std::string> names;
    for (const Json& pod : cluster_.Pods("worker")) {
      names.insert(kube::MetadataString(pod, "name"));
    }
    return names;
  }
  uint64_t Epoch() { return cluster_.Deployment("olmoe")["status"]["groups"][0]["epoch"]; }
  const int port_ = FreePort();
  FakeCluster cluster_{absl::StrCat("localhost:", port_)};
};

TEST_F(OperatorTest, MakesADeploymentReady) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));

  EXPECT_THAT(WorkerNames(), SizeIs(4));
  const uint64_t epoch = AwaitOneEpoch(4);
  EXPECT_EQ(epoch, Epoch());
  const Json status = cluster_.Deployment("olmoe")["status"];
  EXPECT_EQ(status["strategy"], "EP4_TP1_PP1_DP1");
  EXPECT_EQ(status["readyReplicas"], 1);
  EXPECT_EQ(status["workerImage"], "worker:1");
  for (const auto& type : {kube::kServices, kube::kDeployments}) {
    EXPECT_TRUE(cluster_.objects().Find(type, {"models", "olmoe-gateway"}).has_value());
  }
  EXPECT_TRUE(
      cluster_.objects().Find(kube::kPodDisruptionBudgets, {"models", "olmoe-g0"}).has_value());
  EXPECT_THAT(cluster_.Pods("inspect"), IsEmpty());
  EXPECT_EQ(controller->NotReadyReason(), "");

  httplib::Client client("127.0.0.1", controller->metrics_port());
  const auto metrics = client.Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_THAT(metrics->body, HasSubstr("moe_controller_leader 1"));
  EXPECT_TRUE(AwaitTrue([&] {
    const auto answer = client.Get("/metrics");
    return answer &&
           answer->body.find("moe_deployment_ready{deployment=\"olmoe\"") != std::string::npos;
  }));
}

TEST_F(OperatorTest, DoesNothingOnceEverythingIsAsItShouldBe) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  AwaitOneEpoch(4);
  // What still follows from becoming ready.
  std::string version;
  ASSERT_TRUE(AwaitTrue([&] {
    const std::string before = version;
    version = kube::MetadataString(cluster_.Deployment("olmoe"), "resourceVersion");
    absl::SleepFor(absl::Milliseconds(300));
    return version == before;
  }));
  const int num_writes = cluster_.server().CountRequests("update", "moedeployments") +
                         cluster_.server().CountRequests("apply", "") +
                         cluster_.server().CountRequests("create", "pods");
  // Somebody touches a child without changing it.
  cluster_.objects().Edit(kube::kServices, {"models", "olmoe-gateway"}, [](Json& object) {
    object["metadata"]["annotations"]["seen-by"] = "somebody";
  });
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(cluster_.server().CountRequests("update", "moedeployments") +
                cluster_.server().CountRequests("apply", "") +
                cluster_.server().CountRequests("create", "pods"),
            num_writes);
}

TEST_F(OperatorTest, ReplacesOneWorkerAndLeavesTheOthers) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  const std::set<std::string> before = WorkerNames();
  const std::string victim = *before.begin();
  cluster_.KillWorker(victim);

  ASSERT_TRUE(AwaitTrue([&] { return Epoch() > epoch; }));
  EXPECT_GT(AwaitOneEpoch(4), epoch);
  ASSERT_TRUE(AwaitTrue([&] { return !WorkerNames().contains(victim); }));
  const std::set<std::string> after = WorkerNames();
  std::vector<std::string> kept;
  std::set_intersection(before.begin(), before.end(), after.begin(), after.end(),
                        std::back_inserter(kept));
  EXPECT_THAT(kept, SizeIs(3));
  EXPECT_THAT(after, SizeIs(4));
  ASSERT_TRUE(cluster_.AwaitStatus("olmoe", [&](const Json& status) {
    return status.contains("lastFailure") && status["lastFailure"]["pod"] == victim;
  }));
  const Json failure = cluster_.Deployment("olmoe")["status"]["lastFailure"];
  EXPECT_EQ(failure["exitCode"], 137);
  EXPECT_EQ(failure["lastLog"], "its last words");
}

TEST_F(OperatorTest, APodThatHangsInTerminatingBlocksNothing) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  const std::string victim = *WorkerNames().begin();
  cluster_.LoseNodeOf(victim);
  cluster_.objects().Delete(kube::kPods, {"models", victim}, Json());
  ASSERT_TRUE(AwaitTrue([&] { return Epoch() > epoch; }));
  EXPECT_GT(AwaitOneEpoch(4), epoch);
  EXPECT_TRUE(WorkerNames().contains(victim));
  EXPECT_THAT(WorkerNames(), SizeIs(5));
}

TEST_F(OperatorTest, ScalesByWholeGroups) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const std::set<std::string> first = WorkerNames();
  const auto scale = [this](int replicas) {
    cluster_.objects().Edit(kube::kMoeDeployments, {"models", "olmoe"},
                            [&](Json& object) { object["spec"]["replicas"] = replicas; });
  };
  scale(2);
  ASSERT_TRUE(cluster_.AwaitStatus(
      "olmoe", [](const Json& status) { return status["readyReplicas"] == 2; }));
  EXPECT_THAT(WorkerNames(), SizeIs(8));
  EXPECT_TRUE(
      cluster_.objects().Find(kube::kPodDisruptionBudgets, {"models", "olmoe-g1"}).has_value());
  scale(1);
  ASSERT_TRUE(AwaitTrue([&] { return WorkerNames() == first; }));
  EXPECT_TRUE(AwaitTrue([&] {
    return !cluster_.objects().Find(kube::kPodDisruptionBudgets, {"models", "olmoe-g1"});
  }));
}

TEST_F(OperatorTest, AnInvalidSpecIsAConditionAndAnEvent) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  cluster_.objects().Edit(kube::kMoeDeployments, {"models", "olmoe"},
                          [](Json& object) { object["spec"]["parallelism"]["tensor"] = 16; });
  ASSERT_TRUE(cluster_.AwaitStatus(
      "olmoe", [](const Json& status) { return status["observedGeneration"] == 2; }));
  EXPECT_THAT(cluster_.Deployment("olmoe")["status"]["conditions"].dump(),
              HasSubstr("spec.parallelism.tensor"));
  EXPECT_TRUE(AwaitTrue([&] { return !cluster_.objects().All(kube::kEvents).empty(); }));
  // What runs goes on.
  EXPECT_EQ(AwaitOneEpoch(4), epoch);
}

TEST_F(OperatorTest, ADeletedDeploymentLeavesNothingBehind) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  AwaitOneEpoch(4);
  cluster_.objects().Delete(kube::kMoeDeployments, {"models", "olmoe"}, Json());
  EXPECT_TRUE(AwaitTrue([&] { return cluster_.objects().All(kube::kPods).empty(); }));
  EXPECT_TRUE(AwaitTrue([&] {
    return cluster_.objects().All(kube::kServices).empty() &&
           cluster_.objects().All(kube::kDeployments).empty() &&
           cluster_.objects().All(kube::kNetworkPolicies).empty() &&
           cluster_.objects().All(kube::kConfigMaps).empty() &&
           cluster_.objects().All(kube::kServiceAccounts).empty();
  }));
  // And the name is free for another one.
  cluster_.CreateDeployment("olmoe");
  EXPECT_TRUE(cluster_.AwaitReady("olmoe"));
}

TEST_F(OperatorTest, WorkersOfADeletedDeploymentServeUntilItsGatewaysHaveEnded) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  cluster_.objects().Put(kube::kPods, Json::parse(R"({
      "metadata": {"namespace": "models", "name": "olmoe-gateway-0", "labels": {
          "app.kubernetes.io/managed-by": "moe-operator",
          "app.kubernetes.io/component": "gateway", "moe-operator.dev/deployment": "olmoe"}},
      "spec": {"nodeName": "node-0"}, "status": {"phase": "Running"}})"));
  cluster_.LoseNodeOf("olmoe-gateway-0");  // it takes its time
  cluster_.objects().Delete(kube::kMoeDeployments, {"models", "olmoe"}, Json());
  cluster_.objects().Delete(kube::kPods, {"models", "olmoe-gateway-0"}, Json());
  absl::SleepFor(absl::Seconds(1));
  EXPECT_EQ(AwaitOneEpoch(4), epoch);
  cluster_.objects().Finish(kube::kPods, {"models", "olmoe-gateway-0"});
  EXPECT_TRUE(AwaitTrue([&] { return cluster_.objects().All(kube::kPods).empty(); }))
      << "nobody has dismissed the workers, which have minutes of grace left";
}

TEST_F(OperatorTest, WorkersOfADeploymentThatWentWhileNobodyLedAreDismissed) {
  auto first = StartOperator("controller-1");
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  first->Stop();
  first = nullptr;
  cluster_.objects().Delete(kube::kMoeDeployments, {"models", "olmoe"}, Json());
  ASSERT_TRUE(AwaitTrue([&] {
    const std::vector<Json> pods = cluster_.Pods("worker");
    return std::all_of(pods.begin(), pods.end(), [](const Json& pod) {
      return pod["metadata"].contains("deletionTimestamp");
    });
  }));
  EXPECT_EQ(AwaitOneEpoch(4), epoch) << "they have minutes of grace left";
  auto second = StartOperator("controller-2");
  EXPECT_TRUE(AwaitTrue([&] { return cluster_.objects().All(kube::kPods).empty(); }))
      << "its leader has no group for them, and nobody else dismisses them";
}

TEST_F(OperatorTest, AWorkersPodThatIsDeletedByHandIsDismissedAndReplaced) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  const std::string victim = *WorkerNames().begin();
  cluster_.objects().Delete(kube::kPods, {"models", victim}, Json());
  ASSERT_TRUE(AwaitTrue([&] { return !WorkerNames().contains(victim); }));
  ASSERT_TRUE(AwaitTrue([&] { return Epoch() > epoch; }));
  EXPECT_GT(AwaitOneEpoch(4), epoch);
}

TEST_F(OperatorTest, AStandbyTakesOverWithoutAWorkerNoticing) {
  auto first = StartOperator("controller-1", "127.0.0.1");
  ASSERT_TRUE(AwaitTrue([&] { return first->leads(); }));
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  const uint64_t epoch = AwaitOneEpoch(4);
  const Json before = cluster_.Deployment("olmoe")["status"];
  const std::set<std::string> pods = WorkerNames();

  const int num_lists_of_pods = cluster_.server().CountRequests("list", "pods");
  auto second = StartOperator("controller-2", "127.0.0.2");
  ASSERT_TRUE(AwaitTrue([&] { return second->NotReadyReason().empty(); }));
  EXPECT_FALSE(second->leads());
  EXPECT_EQ(cluster_.server().CountRequests("list", "pods"), num_lists_of_pods)
      << "a standby has no use for pods";
  first->Stop();
  ASSERT_TRUE(AwaitTrue([&] { return second->leads(); }));
  EXPECT_EQ(WorkerNames(), pods) << "a controller that ends takes no pod with it";
  ASSERT_TRUE(cluster_.AwaitStatus("olmoe", [&](const Json& status) {
    return status["term"].get<int>() > before["term"].get<int>();
  }));
  EXPECT_EQ(AwaitOneEpoch(4), epoch) << "the epoch runs on";

  // The first one comes back as a standby, behind the address that workers know.
  first = StartOperator("controller-1", "127.0.0.1");
  ASSERT_TRUE(AwaitTrue([&] { return first->NotReadyReason().empty(); }));
  EXPECT_FALSE(first->leads());
  cluster_.KillWorker(*pods.begin());
  ASSERT_TRUE(AwaitTrue([&] { return Epoch() > epoch; }));
  EXPECT_GT(AwaitOneEpoch(4), epoch);
}

}  // namespace
}  // namespace moe::controller
