#include "controller/manifests/children.h"

#include <algorithm>
#include <utility>

#include "controller/kube/resource_types.h"
#include "controller/manifests/gateway.h"
#include "controller/manifests/names.h"
#include "controller/manifests/network_policy.h"
#include "controller/manifests/pod_parts.h"

namespace moe::manifests {
namespace {

using kube::Json;

Json ServiceAccount(const api::MoEDeployment& deployment, const std::string& name,
                    const char* component) {
  return Json{
      {"apiVersion", kube::kServiceAccounts.ApiVersion()},
      {"kind", kube::kServiceAccounts.kind},
      {"metadata", ChildMetadata(deployment, name, ChildLabels(deployment.name, component))},
      {"automountServiceAccountToken", false}};
}

// An integer `minAvailable`: for pods whose owner has a scale subresource, `maxUnavailable` counts
// by the owner's scale, and a MoEDeployment's is in groups.
Json Budget(const api::MoEDeployment& deployment, const std::string& name, const char* component,
            Json selector, int min_available) {
  return Json{
      {"apiVersion", kube::kPodDisruptionBudgets.ApiVersion()},
      {"kind", kube::kPodDisruptionBudgets.kind},
      {"metadata", ChildMetadata(deployment, name, ChildLabels(deployment.name, component))},
      {"spec",
       {{"minAvailable", min_available}, {"selector", {{"matchLabels", std::move(selector)}}}}}};
}

// Of each pod of a group, which may be of an earlier revision than the spec's.
int ProcessesOf(const api::MoEDeployment& deployment, const api::GroupStatus& group) {
  for (const api::RevisionStatus& revision : deployment.status.revisions) {
    if (revision.name == group.revision) return revision.gpus_per_pod;
  }
  return deployment.spec.worker.gpus_per_pod;
}

Child Hashed(const kube::ResourceType& type, Json object) {
  const std::string hash = ContentHash(object);
  object["metadata"]["annotations"][kAnnotationHash] = hash;
  return {type, std::move(object)};
}

}  // namespace

std::vector<Child> InspectChildren(const api::MoEDeployment& deployment) {
  return {Hashed(kube::kServiceAccounts,
                 ServiceAccount(deployment, WorkerAccountName(deployment.name), kWorker)),
          Hashed(kube::kNetworkPolicies, InspectPolicy(deployment))};
}

std::vector<Child> Children(const api::MoEDeployment& deployment, const Context& context) {
  const std::string& name = deployment.name;
  std::vector<Child> children = InspectChildren(deployment);
  const auto add = [&children](const kube::ResourceType& type, Json object) {
    children.push_back(Hashed(type, std::move(object)));
  };
  add(kube::kServiceAccounts, ServiceAccount(deployment, GatewayName(name), kGateway));
  add(kube::kNetworkPolicies, GatewayPolicy(deployment, context));
  for (const api::GroupStatus& group : deployment.status.groups) {
    add(kube::kNetworkPolicies,
        GroupPolicy(deployment, context, group.index, ProcessesOf(deployment, group)));
    const int num_slots = static_cast<int>(group.incarnations.size());
    if (num_slots < 2) continue;  // the only worker may go: there is nothing to keep
    // Before it is scheduled a group has nothing to lose, and a budget of pods that are not ready
    // would only keep nodes from being drained.
    if (group.slot_of_rank.empty()) continue;
    Json selector = PodSelector(name, kWorker);
    selector[kLabelGroup] = std::to_string(group.index);
    add(kube::kPodDisruptionBudgets, Budget(deployment, GroupName(name, group.index), kWorker,
                                            std::move(selector), num_slots - 1));
  }
  if (deployment.spec.gateway.replicas > 1) {
    add(kube::kPodDisruptionBudgets,
        Budget(deployment, GatewayName(name), kGateway, PodSelector(name, kGateway), 1));
  }
  add(kube::kServices, GatewayService(deployment));
  add(kube::kDeployments, GatewayDeployment(deployment, context));
  if (deployment.spec.ingress.has_value()) add(kube::kIngresses, GatewayIngress(deployment));
  return children;
}

Child CaBundle(const std::string& ns, const std::vector<const api::MoEDeployment*>& deployments,
               const std::string& ca_bundle_pem) {
  std::vector<std::pair<std::string, std::string>> owners;  // uid, name: in a fixed order
  owners.reserve(deployments.size());
  for (const api::MoEDeployment* deployment : deployments) {
    owners.emplace_back(deployment->uid, deployment->name);
  }
  std::sort(owners.begin(), owners.end());
  Json references = Json::array();
  for (const auto& [uid, name] : owners) {
    references.push_back(Json{{"apiVersion", kube::kMoeDeployments.ApiVersion()},
                              {"kind", kube::kMoeDeployments.kind},
                              {"name", name},
                              {"uid", uid}});
  }
  return Hashed(kube::kConfigMaps,
                Json{{"apiVersion", kube::kConfigMaps.ApiVersion()},
                     {"kind", kube::kConfigMaps.kind},
                     {"metadata",
                      {{"name", kCaName},
                       {"namespace", ns},
                       {"labels", {{kLabelName, kProduct}, {kLabelManagedBy, kProduct}}},
                       {"ownerReferences", std::move(references)}}},
                     {"data", {{"ca.crt", ca_bundle_pem}}}});
}

const std::vector<kube::ResourceType>& ChildTypes() {
  static const auto* const kTypes =
      new std::vector<kube::ResourceType>{kube::kServiceAccounts, kube::kConfigMaps,
                                          kube::kNetworkPolicies, kube::kPodDisruptionBudgets,
                                          kube::kServices,        kube::kDeployments,
                                          kube::kIngresses};
  return *kTypes;
}

}  // namespace moe::manifests
