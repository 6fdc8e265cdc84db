#include "controller/manifests/network_policy.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "controller/manifests/pod_parts.h"
#include "identity/worker_id.h"

namespace moe::manifests {
namespace {

using kube::Json;

Json TcpPorts(std::initializer_list<int> ports) {
  Json list = Json::array();
  for (const int port : ports) list.push_back(Json{{"protocol", "TCP"}, {"port", port}});
  return list;
}

// Of each process of a worker pod.
Json ProcessPorts(int port, int num_processes) {
  Json list = Json::array();
  for (int process = 0; process < num_processes; ++process) {
    list.push_back(
        Json{{"protocol", "TCP"}, {"port", port + process * identity::kProcessPortStride}});
  }
  return list;
}

Json Pods(Json labels) { return Json{{"podSelector", {{"matchLabels", std::move(labels)}}}}; }

Json AnyPod() { return Json{{"namespaceSelector", Json::object()}}; }

Json GroupSelector(const api::MoEDeployment& deployment, int group) {
  Json labels = PodSelector(deployment.name, kWorker);
  labels[kLabelGroup] = absl::StrCat(group);
  return labels;
}

// Anywhere: the name server is a pod, an address of the node, or one outside.
Json DnsRule() {
  return Json{{"ports", Json::array({Json{{"protocol", "UDP"}, {"port", 53}},
                                     Json{{"protocol", "TCP"}, {"port", 53}}})}};
}

Json CoordinatorRule(const Context& context) {
  Json to{
      {"namespaceSelector",
       {{"matchLabels", {{"kubernetes.io/metadata.name", context.operator_namespace}}}}},
      {"podSelector", {{"matchLabels", {{kLabelName, kProduct}, {kLabelComponent, kController}}}}}};
  return Json{{"to", Json::array({std::move(to)})}, {"ports", TcpPorts({kCoordinatorPort})}};
}

bool Fetches(const api::MoEDeployment& deployment) {
  const Json::json_pointer init_containers("/spec/initContainers");
  const Json& pod_template = deployment.spec.worker.pod_template;
  return pod_template.contains(init_containers) && !pod_template[init_containers].empty();
}

Json FetchRule() { return Json{{"ports", TcpPorts({80, 443})}}; }

Json Policy(const api::MoEDeployment& deployment, const std::string& name,
            const std::string& component, Json selector, Json ingress, Json egress) {
  return Json{
      {"apiVersion", kube::kNetworkPolicies.ApiVersion()},
      {"kind", kube::kNetworkPolicies.kind},
      {"metadata", ChildMetadata(deployment, name, ChildLabels(deployment.name, component))},
      {"spec",
       {{"podSelector", {{"matchLabels", std::move(selector)}}},
        {"policyTypes", Json::array({"Ingress", "Egress"})},
        {"ingress", std::move(ingress)},
        {"egress", std::move(egress)}}}};
}

}  // namespace

Json GroupPolicy(const api::MoEDeployment& deployment, const Context& context, int group,
                 int num_processes) {
  const Json group_pods = Json::array({Pods(GroupSelector(deployment, group))});
  Json exchange_in{{"from", group_pods}};
  Json exchange_out{{"to", group_pods}};
  if (deployment.spec.backend == api::Backend::kCpu) {
    exchange_in["ports"] = ProcessPorts(kExchangePort, num_processes);
    exchange_out["ports"] = ProcessPorts(kExchangePort, num_processes);
  }
  // Gateways speak to rank 0 alone, which is process 0 of its pod.
  Json ingress =
      Json::array({Json{{"from", Json::array({Pods(PodSelector(deployment.name, kGateway))})},
                        {"ports", TcpPorts({kEnginePort})}},
                   std::move(exchange_in),
                   Json{{"from", Json::array({AnyPod()})},
                        {"ports", ProcessPorts(kWorkerMetricsPort, num_processes)}}});
  Json egress = Json::array({DnsRule(), CoordinatorRule(context), std::move(exchange_out)});
  if (Fetches(deployment)) egress.push_back(FetchRule());
  return Policy(deployment, GroupName(deployment.name, group), kWorker,
                GroupSelector(deployment, group), std::move(ingress), std::move(egress));
}

Json GatewayPolicy(const api::MoEDeployment& deployment, const Context& context) {
  Json ingress = Json::array(
      {Json{{"ports", TcpPorts({kGatewayPort})}},
       Json{{"from", Json::array({AnyPod()})}, {"ports", TcpPorts({kGatewayMetricsPort})}}});
  Json egress =
      Json::array({DnsRule(), CoordinatorRule(context),
                   Json{{"to", Json::array({Pods(PodSelector(deployment.name, kWorker))})},
                        {"ports", TcpPorts({kEnginePort})}}});
  return Policy(deployment, GatewayName(deployment.name), kGateway,
                PodSelector(deployment.name, kGateway), std::move(ingress), std::move(egress));
}

Json InspectPolicy(const api::MoEDeployment& deployment) {
  Json egress = Json::array({DnsRule()});
  if (Fetches(deployment)) egress.push_back(FetchRule());
  return Policy(deployment, InspectPodName(deployment.name), kInspect,
                PodSelector(deployment.name, kInspect), Json::array(), std::move(egress));
}

}  // namespace moe::manifests
