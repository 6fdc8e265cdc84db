// `mode: Auto` in the operator as a whole: nodes come from the API server, and the decision goes
// into the status.
#include <string>

#include "absl/strings/str_cat.h"
#include "controller/kube/resource_types.h"
#include "controller/operator/operator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/operator/fake_cluster.h"

namespace moe::controller {
namespace {

using kube::Json;
using ::testing::HasSubstr;

class OperatorLayoutTest : public ::testing::Test {
 protected:
  std::unique_ptr<Operator> Start(bool read_nodes = true) {
    OperatorOptions options = cluster_.Options("controller-1", "127.0.0.1", port_);
    options.read_nodes = read_nodes;
    auto started = Operator::Start(std::move(options));
    EXPECT_TRUE(started.ok()) << started.status();
    return started.ok() ? *std::move(started) : nullptr;
  }
  // A node with GPUs that are in planner/devices.
  void PutNode(const std::string& name, int num_gpus, bool cordoned = false) {
    cluster_.objects().Put(
        kube::kNodes,
        Json{{"metadata",
              {{"name", name},
               {"labels",
                {{"nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"},
                 {"nvidia.com/gpu.memory", "81559"}}}}},
             {"spec", {{"unschedulable", cordoned}}},
             {"status", {{"allocatable", {{"nvidia.com/gpu", std::to_string(num_gpus)}}}}}});
  }
  void CreateAuto(const std::string& backend, int gpus_per_pod = 1) {
    cluster_.objects().Put(kube::kMoeDeployments,
                           Json{{"metadata", {{"name", "olmoe"}, {"namespace", "models"}}},
                                {"spec",
                                 {{"model", {{"name", "demo"}, {"uri", "file:///models/demo"}}},
                                  {"parallelism", {{"mode", "Auto"}}},
                                  {"worker", {{"gpusPerPod", gpus_per_pod}}},
                                  {"backend", backend},
                                  {"gateway", {{"replicas", 1}}}}}});
  }
  // Waits for the condition LayoutDecided to have that reason; returns its message.
  std::string AwaitLayout(const std::string& reason) {
    std::string message;
    EXPECT_TRUE(cluster_.AwaitStatus("olmoe", [&](const Json& status) {
      for (const Json& condition : status.value("conditions", Json::array())) {
        if (condition["type"] == "LayoutDecided" && condition["reason"] == reason) {
          message = condition["message"];
          return true;
        }
      }
      return false;
    })) << reason;
    return message;
  }

  const int port_ = FreePort();
  FakeCluster cluster_{absl::StrCat("localhost:", port_)};
};

TEST_F(OperatorLayoutTest, DecidesFromTheNodesOnceAndProposesWhenTheyChange) {
  PutNode("node-0", 4);
  auto controller = Start();
  CreateAuto("CUDA", 4);
  EXPECT_THAT(AwaitLayout("Planned"), HasSubstr("4 x NVIDIA-H100-80GB-HBM3 on 1 node"));
  const Json decision = cluster_.Deployment("olmoe")["status"]["decision"];
  EXPECT_EQ(decision["chosen"]["expert"], 4);
  EXPECT_GT(decision["chosen"]["figures"]["tokensPerSecond"], 0);
  EXPECT_FALSE(decision["alternatives"].empty());
  EXPECT_TRUE(cluster_.AwaitStatus("olmoe", [](const Json& status) {
    return status.value("workerImage", "") == "worker-cuda:1" &&
           status["revisions"][0].value("backend", "") == "CUDA";
  }));

  // Another node, and the only one cordoned: seen, and nothing is decided anew.
  PutNode("node-1", 8);
  EXPECT_TRUE(cluster_.AwaitStatus("olmoe", [](const Json& status) {
    return status["decision"]["gpus"] == "12 x NVIDIA-H100-80GB-HBM3 on 2 nodes";
  }));
  PutNode("node-0", 4, /*cordoned=*/true);
  PutNode("node-1", 8, /*cordoned=*/true);
  EXPECT_TRUE(cluster_.AwaitStatus("olmoe", [](const Json& status) {
    return status["decision"].value("reviewProblem", "").find("2 cordoned") != std::string::npos;
  }));
  const Json after = cluster_.Deployment("olmoe")["status"]["decision"];
  EXPECT_EQ(after["chosen"], decision["chosen"]);
  EXPECT_EQ(after["decidedAt"], decision["decidedAt"]);
}

TEST_F(OperatorLayoutTest, AClusterWithoutGpusIsSaidAndTheFirstOneIsSeen) {
  auto controller = Start();
  CreateAuto("CUDA");
  EXPECT_THAT(AwaitLayout("NoGpus"), HasSubstr("nvidia.com/gpu.product"));
  PutNode("node-0", 2);
  AwaitLayout("Planned");
}

TEST_F(OperatorLayoutTest, AnOperatorThatMayNotReadNodesDoesEverythingElse) {
  cluster_.server().Inject(
      {.verb = "list", .plural = "nodes", .count = 1000, .code = 403, .reason = "Forbidden"});
  auto controller = Start();
  CreateAuto("CPU");
  EXPECT_TRUE(cluster_.AwaitReady("olmoe"));
  EXPECT_EQ(cluster_.Deployment("olmoe")["status"]["decision"]["basis"], "OneWorkerForEachExpert");
}

TEST_F(OperatorLayoutTest, WithoutNodesNothingIsDecidedForGpus) {
  PutNode("node-0", 4);
  auto controller = Start(/*read_nodes=*/false);
  CreateAuto("CUDA");
  EXPECT_THAT(AwaitLayout("NodesNotKnown"), HasSubstr("rbac.readNodes"));
  EXPECT_EQ(cluster_.server().CountRequests("list", "nodes"), 0);
}

}  // namespace
}  // namespace moe::controller
