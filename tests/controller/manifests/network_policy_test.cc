// Policies as answers to the question that they are there for: may A connect to port P of B?
#include "controller/manifests/network_policy.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controller/manifests/names.h"
#include "gtest/gtest.h"
#include "tests/controller/manifests/sample.h"

namespace moe::manifests {
namespace {

using kube::Json;

struct Peer {
  std::string ns;  // empty: no pod, an address outside
  Json labels = Json::object();
};

bool Selects(const Json& selector, const Json& labels) {
  if (!selector.contains("matchLabels")) return true;
  for (const auto& [key, value] : selector["matchLabels"].items()) {
    if (!labels.contains(key) || labels[key] != value) return false;
  }
  return true;
}

bool PeerMatches(const Json& rule, const char* direction, const Peer& peer) {
  if (!rule.contains(direction)) return true;  // anybody
  for (const Json& entry : rule[direction]) {
    if (peer.ns.empty()) continue;
    const bool ns_matches =
        entry.contains("namespaceSelector")
            ? Selects(entry["namespaceSelector"], {{"kubernetes.io/metadata.name", peer.ns}})
            : peer.ns == "models";
    const bool pod_matches =
        !entry.contains("podSelector") || Selects(entry["podSelector"], peer.labels);
    if (ns_matches && pod_matches) return true;
  }
  return false;
}

bool PortMatches(const Json& rule, const std::string& protocol, int port) {
  if (!rule.contains("ports")) return true;
  for (const Json& entry : rule["ports"]) {
    if (entry["port"] == port && entry["protocol"] == protocol) return true;
  }
  return false;
}

class PolicyTest : public ::testing::Test {
 protected:
  std::vector<Json> Policies() const {
    return {GroupPolicy(deployment_, SampleContext(), 0, num_processes_),
            GroupPolicy(deployment_, SampleContext(), 1, num_processes_),
            GatewayPolicy(deployment_, SampleContext()), InspectPolicy(deployment_)};
  }

  // What the policies of `who` say of one direction.
  bool Allows(const char* rules, const char* direction, const Peer& who, const Peer& peer,
              const std::string& protocol, int port) const {
    bool selected = false;
    for (const Json& policy : Policies()) {
      if (who.ns != "models" || !Selects(policy["spec"]["podSelector"], who.labels)) continue;
      selected = true;
      for (const Json& rule : policy["spec"][rules]) {
        if (PeerMatches(rule, direction, peer) && PortMatches(rule, protocol, port)) return true;
      }
    }
    return !selected;
  }
  bool MayConnect(const Peer& from, const Peer& to, int port,
                  const std::string& protocol = "TCP") const {
    return Allows("egress", "to", from, to, protocol, port) &&
           Allows("ingress", "from", to, from, protocol, port);
  }

  Peer Worker(const std::string& deployment, int group) const {
    Json labels = ChildLabels(deployment, kWorker);
    labels[kLabelGroup] = absl::StrCat(group);
    return {"models", labels};
  }
  Peer Gateway(const std::string& deployment) const {
    return {"models", ChildLabels(deployment, kGateway)};
  }
  Peer Inspect() const { return {"models", ChildLabels("olmoe", kInspect)}; }
  Peer Coordinator() const {
    return {"moe-system", {{kLabelName, kProduct}, {kLabelComponent, kController}}};
  }
  Peer Stranger() const { return {"other", {{"app", "x"}}}; }
  Peer Outside() const { return {}; }

  api::MoEDeployment deployment_ = SampleDeployment();
  int num_processes_ = 1;
};

TEST_F(PolicyTest, EveryConnectionOfTheProductIsAllowed) {
  EXPECT_TRUE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), kExchangePort));
  EXPECT_TRUE(MayConnect(Gateway("olmoe"), Worker("olmoe", 0), kEnginePort));
  EXPECT_TRUE(MayConnect(Gateway("olmoe"), Worker("olmoe", 1), kEnginePort));
  EXPECT_TRUE(MayConnect(Worker("olmoe", 1), Coordinator(), kCoordinatorPort));
  EXPECT_TRUE(MayConnect(Gateway("olmoe"), Coordinator(), kCoordinatorPort));
  EXPECT_TRUE(MayConnect(Outside(), Gateway("olmoe"), kGatewayPort));
  EXPECT_TRUE(MayConnect(Stranger(), Gateway("olmoe"), kGatewayPort));
  EXPECT_TRUE(MayConnect(Stranger(), Gateway("olmoe"), kGatewayMetricsPort));
  EXPECT_TRUE(MayConnect(Stranger(), Worker("olmoe", 0), kWorkerMetricsPort));
  for (const Peer& who : {Worker("olmoe", 0), Gateway("olmoe"), Inspect()}) {
    EXPECT_TRUE(MayConnect(who, Outside(), 53, "UDP"));
    EXPECT_TRUE(MayConnect(who, Stranger(), 53, "TCP"));
  }
}

TEST_F(PolicyTest, NothingElseIs) {
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 1), kExchangePort));
  EXPECT_FALSE(MayConnect(Worker("other", 0), Worker("olmoe", 0), kExchangePort));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), kEnginePort));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), 40000));
  EXPECT_FALSE(MayConnect(Gateway("other"), Worker("olmoe", 0), kEnginePort));
  EXPECT_FALSE(MayConnect(Gateway("olmoe"), Worker("other", 0), kEnginePort));
  EXPECT_FALSE(MayConnect(Gateway("olmoe"), Worker("olmoe", 0), kExchangePort));
  EXPECT_FALSE(MayConnect(Stranger(), Worker("olmoe", 0), kEnginePort));
  EXPECT_FALSE(MayConnect(Stranger(), Worker("olmoe", 0), kExchangePort));
  EXPECT_FALSE(MayConnect(Outside(), Worker("olmoe", 0), kWorkerMetricsPort));
  EXPECT_FALSE(MayConnect(Outside(), Gateway("olmoe"), kGatewayMetricsPort));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Outside(), 443));
  EXPECT_FALSE(MayConnect(Gateway("olmoe"), Outside(), 443));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Stranger(), kCoordinatorPort));
  EXPECT_FALSE(MayConnect(Inspect(), Coordinator(), kCoordinatorPort));
  EXPECT_FALSE(MayConnect(Stranger(), Inspect(), kWorkerMetricsPort));
}

TEST_F(PolicyTest, EachProcessOfAPodIsReachedAsTheFirstOneIs) {
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), 7721));
  EXPECT_FALSE(MayConnect(Stranger(), Worker("olmoe", 0), 7722));
  num_processes_ = 4;
  for (const int exchange : {7711, 7721, 7731, 7741}) {
    EXPECT_TRUE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), exchange));
    EXPECT_TRUE(MayConnect(Stranger(), Worker("olmoe", 0), exchange + 1));
    EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 1), exchange));
  }
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), 7751));
  // Rank 0 is always the first process of its pod.
  EXPECT_TRUE(MayConnect(Gateway("olmoe"), Worker("olmoe", 0), 7710));
  EXPECT_FALSE(MayConnect(Gateway("olmoe"), Worker("olmoe", 0), 7720));
}

TEST_F(PolicyTest, CudaWorkersOfAGroupReachEachOtherOnThePortsThatNcclDraws) {
  deployment_.spec.backend = api::Backend::kCuda;
  EXPECT_TRUE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 0), 40000));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Worker("olmoe", 1), 40000));
}

TEST_F(PolicyTest, InitContainersMayFetchTheModel) {
  deployment_.spec.worker.pod_template =
      Json::parse(R"({"spec": {"initContainers": [{"name": "fetch"}]}})");
  EXPECT_TRUE(MayConnect(Worker("olmoe", 0), Outside(), 443));
  EXPECT_TRUE(MayConnect(Inspect(), Outside(), 443));
  EXPECT_FALSE(MayConnect(Worker("olmoe", 0), Outside(), 22));
  EXPECT_FALSE(MayConnect(Gateway("olmoe"), Outside(), 443));
}

}  // namespace
}  // namespace moe::manifests
