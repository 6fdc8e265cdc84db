#include "controller/operator/observe_nodes.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "controller/kube/answer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/catalog/built_in.h"

namespace moe::controller {
namespace {

using kube::Json;
using reconcile::GpuInventory;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::SizeIs;

using Nodes = std::vector<std::shared_ptr<const Json>>;

Json Node(const std::string& product = "NVIDIA-H100-80GB-HBM3", const Json& gpus = "8") {
  Json node = {{"metadata",
                {{"name", "node"},
                 {"uid", "u"},
                 {"resourceVersion", "7"},
                 {"labels", {{"pool", "large"}, {"nvidia.com/gpu.memory", "81559"}}}}},
               {"spec", {{"podCIDR", "10.0.0.0/24"}}},
               {"status", {{"images", Json::array()}, {"allocatable", {{"cpu", "64"}}}}}};
  if (!product.empty()) node["metadata"]["labels"][kGpuProductLabel] = product;
  if (!gpus.is_null()) node["status"]["allocatable"]["nvidia.com/gpu"] = gpus;
  return node;
}

GpuInventory Observe(const std::vector<Json>& nodes, const Json& pod_template = nullptr) {
  Nodes shared;
  for (const Json& node : nodes) shared.push_back(std::make_shared<const Json>(node));
  return ObserveGpus(shared, pod_template, planner::BuiltInDevices().value(),
                     planner::DefaultNetwork().value());
}

TEST(ObserveGpusTest, CountsAllocatableGpusByKindAndKnowsTheDevice) {
  const GpuInventory inventory =
      Observe({Node(), Node(), Node("NVIDIA-H100-80GB-HBM3", 4), Node("NVIDIA-X1", "2")});
  ASSERT_THAT(inventory.pools, SizeIs(2));
  const reconcile::GpuPool& known = inventory.pools[0];
  EXPECT_EQ(known.product, "NVIDIA-H100-80GB-HBM3");
  EXPECT_THAT(known.nodes_by_gpus, ElementsAre(Pair(4, 1), Pair(8, 2)));
  EXPECT_EQ(known.memory_bytes, int64_t{81559} << 20);
  ASSERT_TRUE(known.device.has_value());
  EXPECT_EQ(known.device->name, "h100");
  EXPECT_EQ(inventory.pools[1].product, "NVIDIA-X1");
  EXPECT_FALSE(inventory.pools[1].device.has_value());
  EXPECT_THAT(inventory.left_out, IsEmpty());
  EXPECT_EQ(inventory.network.library.name, "nccl");
}

TEST(ObserveGpusTest, LeavesOutNodesThatWorkersCantRunOnAndSaysWhy) {
  struct Case {
    const char* name;
    std::pair<const char*, Json> change;  // of the node
    const char* pod_template;
    const char* left_out;  // empty: it counts
  };
  const Json taint = Json::parse(R"([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])");
  const std::pair<const char*, Json> tainted = {"/spec/taints", taint};
  constexpr char kTaint[] = "with a taint that worker.podTemplate does not tolerate";
  constexpr char kSelector[] = "outside of worker.podTemplate's nodeSelector";
  const std::vector<Case> cases = {
      {"as it is", {"/spec/podCIDR", ""}, "null", ""},
      {"cordoned", {"/spec/unschedulable", true}, "null", "cordoned"},
      {"not cordoned any more", {"/spec/unschedulable", false}, "null", ""},
      {"no GPU can be given",
       {"/status/allocatable/nvidia.com~1gpu", "0"},
       "null",
       "without allocatable nvidia.com/gpu"},
      {"no number of GPUs",
       {"/status/allocatable/nvidia.com~1gpu", "eight"},
       "null",
       "without allocatable nvidia.com/gpu"},
      {"the selector matches",
       {"/spec/podCIDR", ""},
       R"({"spec": {"nodeSelector": {"pool": "large"}}})",
       ""},
      {"the selector asks for another value",
       {"/spec/podCIDR", ""},
       R"({"spec": {"nodeSelector": {"pool": "small"}}})",
       kSelector},
      {"the selector asks for another label",
       {"/spec/podCIDR", ""},
       R"({"spec": {"nodeSelector": {"pool": "large", "zone": "a"}}})",
       kSelector},
      {"a taint", tainted, "null", kTaint},
      {"a taint that only asks",
       {"/spec/taints", Json::parse(R"([{"key": "gpu", "effect": "PreferNoSchedule"}])")},
       "null",
       ""},
      {"tolerated by key", tainted,
       R"({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}})", ""},
      {"tolerated by value", tainted,
       R"({"spec": {"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}})",
       ""},
      {"another value is tolerated", tainted,
       R"({"spec": {"tolerations": [{"key": "gpu", "value": "no"}]}})", kTaint},
      {"another key is tolerated", tainted,
       R"({"spec": {"tolerations": [{"key": "cpu", "operator": "Exists"}]}})", kTaint},
      {"another effect is tolerated", tainted,
       R"({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]}})",
       kTaint},
      {"everything is tolerated", tainted, R"({"spec": {"tolerations": [{"operator": "Exists"}]}})",
       ""},
      {"nothing is tolerated by a toleration without key and operator", tainted,
       R"({"spec": {"tolerations": [{"effect": "NoSchedule"}]}})", kTaint},
      {"fields of another type are passed over",
       {"/spec/taints", 3},
       R"({"spec": {"nodeSelector": 5, "tolerations": "all"}})",
       ""},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    Json node = Node();
    node[Json::json_pointer(test_case.change.first)] = test_case.change.second;
    const GpuInventory inventory = Observe({node}, Json::parse(test_case.pod_template));
    if (std::string(test_case.left_out).empty()) {
      EXPECT_THAT(inventory.pools, SizeIs(1));
      EXPECT_THAT(inventory.left_out, IsEmpty());
    } else {
      EXPECT_THAT(inventory.pools, IsEmpty());
      EXPECT_THAT(inventory.left_out, ElementsAre(Pair(test_case.left_out, 1)));
    }
  }
}

TEST(ObserveGpusTest, ANodeWithoutTheLabelIsNoGpuNode) {
  const GpuInventory inventory = Observe({Node(""), Json::object(), Json(nullptr), Json(3)});
  EXPECT_THAT(inventory.pools, IsEmpty());
  EXPECT_THAT(inventory.left_out, IsEmpty());
}

TEST(ObserveGpusTest, OfUnequalMemoryTheLeastCounts) {
  Json smaller = Node();
  smaller["metadata"]["labels"]["nvidia.com/gpu.memory"] = "40960";
  Json untold = Node();
  untold["metadata"]["labels"].erase("nvidia.com/gpu.memory");
  EXPECT_EQ(Observe({Node(), smaller, untold}).pools[0].memory_bytes, int64_t{40960} << 20);
  EXPECT_EQ(Observe({untold}).pools[0].memory_bytes, 0);
}

TEST(TrimNodeTest, LeavesWhatIsReadAndNothingElse) {
  Json node = Node();
  node["spec"]["taints"] = Json::array();
  node["spec"]["unschedulable"] = true;
  TrimNode(&node);
  EXPECT_FALSE(node["status"].contains("images"));
  EXPECT_FALSE(node["spec"].contains("podCIDR"));
  EXPECT_EQ(kube::KeyOf(node).name, "node");
  EXPECT_EQ(kube::MetadataString(node, "resourceVersion"), "7");
  EXPECT_THAT(Observe({node}).left_out, ElementsAre(Pair("cordoned", 1)));
  node["spec"]["unschedulable"] = false;
  EXPECT_THAT(Observe({node}).pools, SizeIs(1));
}

}  // namespace
}  // namespace moe::controller
