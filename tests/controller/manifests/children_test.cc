#include "controller/manifests/children.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/manifests/names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/manifests/sample.h"

namespace moe::manifests {
namespace {

using kube::Json;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

std::vector<std::string> NamesOf(const std::vector<Child>& children) {
  std::vector<std::string> names;
  for (const Child& child : children) {
    names.push_back(
        absl::StrCat(child.type.kind, " ", child.object["metadata"]["name"].get<std::string>()));
  }
  return names;
}

std::map<std::string, std::string> HashesOf(const std::vector<Child>& children) {
  std::map<std::string, std::string> hashes;
  const std::vector<std::string> names = NamesOf(children);
  for (size_t i = 0; i < children.size(); ++i) {
    hashes[names[i]] = AnnotationOf(children[i].object, kAnnotationHash);
  }
  return hashes;
}

TEST(ChildrenTest, AreMadeInAnOrderInWhichEachFindsWhatItNeeds) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.ingress.emplace().host = "moe.example.com";
  EXPECT_THAT(NamesOf(Children(deployment, SampleContext())),
              ElementsAre("ServiceAccount olmoe-worker", "NetworkPolicy olmoe-inspect",
                          "ServiceAccount olmoe-gateway", "NetworkPolicy olmoe-gateway",
                          "NetworkPolicy olmoe-g0", "PodDisruptionBudget olmoe-g0",
                          "NetworkPolicy olmoe-g1", "PodDisruptionBudget olmoe-g1",
                          "PodDisruptionBudget olmoe-gateway", "Service olmoe-gateway",
                          "Deployment olmoe-gateway", "Ingress olmoe-gateway"));
}

TEST(ChildrenTest, LeaveOutWhatIsNotAskedFor) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.gateway.replicas = 1;
  deployment.status.groups.resize(1);
  deployment.status.groups[0].incarnations = {0};
  EXPECT_THAT(
      NamesOf(Children(deployment, SampleContext())),
      ElementsAre("ServiceAccount olmoe-worker", "NetworkPolicy olmoe-inspect",
                  "ServiceAccount olmoe-gateway", "NetworkPolicy olmoe-gateway",
                  "NetworkPolicy olmoe-g0", "Service olmoe-gateway", "Deployment olmoe-gateway"));
}

TEST(ChildrenTest, AGroupThatIsNotScheduledYetHasNoBudget) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.status.groups[0].slot_of_rank.clear();
  const std::vector<std::string> names = NamesOf(Children(deployment, SampleContext()));
  EXPECT_THAT(names, Contains("NetworkPolicy olmoe-g0"));
  EXPECT_THAT(names, Not(Contains("PodDisruptionBudget olmoe-g0")));
  EXPECT_THAT(names, Contains("PodDisruptionBudget olmoe-g1"));
}

TEST(ChildrenTest, BudgetsKeepAllButOneOfAGroupAndOneGateway) {
  for (const Child& child : Children(SampleDeployment(), SampleContext())) {
    if (child.type.kind != "PodDisruptionBudget") continue;
    const Json& spec = child.object["spec"];
    EXPECT_FALSE(spec.contains("maxUnavailable"));
    if (child.object["metadata"]["name"] == "olmoe-gateway") {
      EXPECT_EQ(spec["minAvailable"], 1);
    } else {
      EXPECT_EQ(spec["minAvailable"], 3);
      EXPECT_TRUE(spec["selector"]["matchLabels"].contains(kLabelGroup));
    }
  }
}

TEST(ChildrenTest, AGroupsObjectsFollowThePodsThatItHasAndNotTheSpec) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.worker.gpus_per_pod = 1;
  deployment.status.revisions.resize(1);
  deployment.status.revisions[0].name = "shared";
  deployment.status.revisions[0].gpus_per_pod = 2;
  deployment.status.groups[1].revision = "shared";
  deployment.status.groups[1].incarnations = {0, 0};
  std::map<std::string, int> pods_kept;
  std::map<std::string, size_t> exchange_ports;
  for (const Child& child : Children(deployment, SampleContext())) {
    const std::string name = child.object["metadata"]["name"];
    const Json& spec = child.object["spec"];
    if (child.type.kind == "PodDisruptionBudget") pods_kept[name] = spec["minAvailable"];
    if (child.type.kind == "NetworkPolicy" && name.starts_with("olmoe-g") &&
        name != "olmoe-gateway") {
      exchange_ports[name] = spec["ingress"][1]["ports"].size();
    }
  }
  EXPECT_EQ(pods_kept["olmoe-g0"], 3);
  EXPECT_EQ(pods_kept["olmoe-g1"], 1);
  EXPECT_EQ(exchange_ports, (std::map<std::string, size_t>{{"olmoe-g0", 1}, {"olmoe-g1", 2}}));
}

TEST(ChildrenTest, OwnersAndLabelsLeadFromEveryChildToItsDeployment) {
  std::set<std::string> kinds;
  for (const kube::ResourceType& type : ChildTypes()) kinds.insert(type.kind);
  for (const Child& child : Children(SampleDeployment(), SampleContext())) {
    EXPECT_EQ(LabelOf(child.object, kLabelDeployment), "olmoe");
    EXPECT_EQ(LabelOf(child.object, kLabelManagedBy), "moe-operator");
    EXPECT_EQ(child.object["metadata"]["ownerReferences"][0]["uid"], "5e0a");
    EXPECT_TRUE(kinds.contains(child.type.kind)) << child.type.kind;
  }
}

TEST(ChildrenTest, OnlyTheHashesOfWhatChangesChange) {
  const api::MoEDeployment before = SampleDeployment();
  api::MoEDeployment after = before;
  after.spec.gateway.replicas = 3;
  after.resource_version = "77";
  const auto hashes_before = HashesOf(Children(before, SampleContext()));
  const auto hashes_after = HashesOf(Children(after, SampleContext()));
  for (const auto& [name, hash] : hashes_before) {
    EXPECT_EQ(hash == hashes_after.at(name), name != "Deployment olmoe-gateway") << name;
  }
}

TEST(CaBundleTest, GoesWithTheLastDeploymentOfItsNamespace) {
  api::MoEDeployment a = SampleDeployment();
  api::MoEDeployment b = SampleDeployment();
  b.name = "other";
  b.uid = "1111";
  const Child bundle = CaBundle("models", {&a, &b}, "pem");
  EXPECT_EQ(bundle.object["data"]["ca.crt"], "pem");
  ASSERT_EQ(bundle.object["metadata"]["ownerReferences"].size(), 2u);
  for (const Json& owner : bundle.object["metadata"]["ownerReferences"]) {
    EXPECT_FALSE(owner.contains("controller"));
  }
  EXPECT_EQ(bundle.object, CaBundle("models", {&b, &a}, "pem").object);
  EXPECT_NE(AnnotationOf(bundle.object, kAnnotationHash),
            AnnotationOf(CaBundle("models", {&a}, "pem").object, kAnnotationHash));
}

}  // namespace
}  // namespace moe::manifests
