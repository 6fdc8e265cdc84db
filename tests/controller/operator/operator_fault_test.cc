// What goes wrong between the operator and the API server: conflicts, lost answers, an outage, a
// leader that sleeps. Named after the faults of the cluster plane that must be survived.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/operator/operator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/operator/fake_cluster.h"

namespace moe::controller {
namespace {

using kube::Json;
using kube::testing::Fault;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class OperatorFaultTest : public ::testing::Test {
 protected:
  std::unique_ptr<Operator> StartOperator(const std::string& name = "controller-1",
                                          const std::string& ip = "127.0.0.1") {
    auto started = Operator::Start(cluster_.Options(name, ip, port_));
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? *std::move(started) : nullptr;
  }
  bool AwaitTrue(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + FakeCluster::kPatience;
    while (absl::Now() < deadline) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  bool AllRun(uint64_t at_least) {
    const std::vector<uint64_t> epochs = cluster_.RunningEpochs();
    return epochs.size() == 4 && std::all_of(epochs.begin(), epochs.end(), [&](uint64_t epoch) {
             return epoch >= at_least && epoch == epochs[0];
           });
  }
  uint64_t Epoch() { return cluster_.Deployment("olmoe")["status"]["groups"][0]["epoch"]; }
  std::string AWorker() { return kube::MetadataString(cluster_.Pods("worker")[0], "name"); }

  const int port_ = FreePort();
  FakeCluster cluster_{absl::StrCat("localhost:", port_)};
};

TEST_F(OperatorFaultTest, LostAnswersOfCreatesMakeNoSecondPod) {
  cluster_.server().Inject(
      {.verb = "create", .plural = "pods", .kind = Fault::kReplyLost, .count = 5});
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  std::set<std::string> created;
  for (const auto& request : cluster_.server().requests()) {
    if (request.verb == "create" && request.plural == "pods") {
      created.insert(request.body["metadata"]["name"].get<std::string>());
    }
  }
  // The inspect pod and one name for each slot, however often it was asked for.
  EXPECT_THAT(created, SizeIs(5));
  EXPECT_THAT(cluster_.Pods("worker"), SizeIs(4));
}

TEST_F(OperatorFaultTest, AStormOfConflictsEnds) {
  for (const char* verb : {"update", "create", "apply", "patch", "delete"}) {
    cluster_.server().Inject({.verb = verb,
                              .kind = Fault::kStatus,
                              .count = 5,
                              .code = 409,
                              .reason = "Conflict",
                              .message = "the object has been modified"});
  }
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  EXPECT_TRUE(cluster_.AwaitReady("olmoe"));
}

TEST_F(OperatorFaultTest, SurvivesAThrottledServer) {
  cluster_.server().Inject({.verb = "create",
                            .kind = Fault::kStatus,
                            .count = 4,
                            .code = 429,
                            .reason = "TooManyRequests",
                            .message = "slow down",
                            .retry_after_seconds = 1});
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  EXPECT_TRUE(cluster_.AwaitReady("olmoe"));
}

TEST_F(OperatorFaultTest, InAnOutageTheRunningEpochStaysAndAfterItWorkGoesOn) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  ASSERT_TRUE(AwaitTrue([&] { return AllRun(1); }));
  const uint64_t epoch = Epoch();
  cluster_.server().SetOutage(true);
  ASSERT_TRUE(AwaitTrue([&] { return !controller->leads(); })) << "the lease can't be renewed";
  EXPECT_TRUE(AllRun(epoch)) << "nobody ends what runs";
  cluster_.server().SetOutage(false);
  ASSERT_TRUE(AwaitTrue([&] { return controller->leads(); }));
  EXPECT_TRUE(AllRun(epoch));
  EXPECT_EQ(Epoch(), epoch);
  cluster_.KillWorker(AWorker());
  EXPECT_TRUE(AwaitTrue([&] { return AllRun(epoch + 1); }));
}

TEST_F(OperatorFaultTest, ADeploymentThatWasDeletedInAnOutageIsLetGo) {
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  ASSERT_TRUE(cluster_.AwaitReady("olmoe"));
  cluster_.server().SetOutage(true);
  cluster_.objects().Delete(kube::kMoeDeployments, {"models", "olmoe"}, Json());
  cluster_.objects().Compact();
  cluster_.server().SetOutage(false);
  EXPECT_TRUE(AwaitTrue([&] { return cluster_.objects().All(kube::kPods).empty(); }));
  cluster_.CreateDeployment("olmoe");
  EXPECT_TRUE(cluster_.AwaitReady("olmoe"));
}

TEST_F(OperatorFaultTest, ATerminatingNamespaceIsLeftAlone) {
  auto controller = StartOperator();
  cluster_.objects().TerminateNamespace("models");
  cluster_.objects().Put(kube::kMoeDeployments,
                         Json::parse(R"({"metadata": {"namespace": "models", "name": "olmoe"},
          "spec": {"model": {"name": "m", "uri": "file:///m"}, "parallelism": {"expert": 4}}})"));
  ASSERT_TRUE(AwaitTrue([&] {
    return cluster_.server().CountRequests("create", "pods") > 1 ||
           cluster_.server().CountRequests("apply", "serviceaccounts") > 1;
  }));
  EXPECT_THAT(cluster_.Pods("worker"), IsEmpty());
  EXPECT_EQ(controller->NotReadyReason(), "");
}

TEST_F(OperatorFaultTest, WithoutRoomForAllNoneRuns) {
  cluster_.SetRoom(3);
  auto controller = StartOperator();
  cluster_.CreateDeployment("olmoe");
  cluster_.objects().Edit(kube::kMoeDeployments, {"models", "olmoe"},
                          [](Json& object) { object["spec"]["worker"]["gangTimeout"] = "1s"; });
  ASSERT_TRUE(cluster_.AwaitStatus("olmoe", [](const Json& status) {
    return status.contains("groups") && status["groups"][0].contains("gangAttempts");
  }));
  // All are deleted again, so that nobody holds what is of no use alone.
  EXPECT_TRUE(AwaitTrue([&] { return cluster_.Pods("worker").empty(); }));
  EXPECT_FALSE(cluster_.objects().All(kube::kEvents).empty());
}

}  // namespace
}  // namespace moe::controller
