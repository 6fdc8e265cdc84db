#include "controller/manifests/gateway.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "controller/manifests/pod_parts.h"
#include "controller/manifests/pod_template.h"

namespace moe::manifests {
namespace {

using kube::Json;

// After SIGTERM two probes have to fail, within a few seconds: what comes meanwhile is taken.
constexpr int kProbeSeconds = 3;
// An answer may take its time; it ends with its client, its deadline or its drain.
constexpr int kIngressTimeoutSeconds = 3600;

Json GatewayContainer(const Context& context) {
  return Json{
      {"name", kGateway},
      {"image", context.gateway_image},
      {"command", Json::array({"moe-gateway"})},
      {"env",
       Json::array({FieldEnv("POD_UID", "metadata.uid"), FieldEnv("POD_NAME", "metadata.name"),
                    FieldEnv("POD_IP", "status.podIP")})},
      {"ports", Json::array({Json{{"name", "http"}, {"containerPort", kGatewayPort}},
                             Json{{"name", "metrics"}, {"containerPort", kGatewayMetricsPort}}})},
      {"resources", {{"requests", {{"cpu", "50m"}, {"memory", "64Mi"}}}}},
      {"securityContext", ContainerSecurity()},
      // Not /health, which follows the engine: while no group serves, requests wait here instead of
      // being turned away at the Service, and a rollout of gateways goes on.
      {"readinessProbe",
       {{"httpGet", {{"path", "/ready"}, {"port", "http"}}},
        {"periodSeconds", kProbeSeconds},
        {"timeoutSeconds", 2},
        {"failureThreshold", 2}}},
      {"terminationMessagePolicy", "FallbackToLogsOnError"}};
}

void AddApiKey(const api::GatewaySpec& gateway, Json* pod_spec, Json* container) {
  if (gateway.api_key_secret_name.empty()) return;
  AddVolume(Json{{"name", "api-key"},
                 {"secret",
                  {{"secretName", gateway.api_key_secret_name},
                   {"defaultMode", 0440},
                   {"items", Json::array({Json{{"key", gateway.api_key_secret_key},
                                               {"path", gateway.api_key_secret_key}}})}}}},
            pod_spec);
  AddMount("api-key", kApiKeyMount, /*read_only=*/true, container);
  (*container)["args"].push_back("--api-key-file");
  (*container)["args"].push_back(absl::StrCat(kApiKeyMount, "/", gateway.api_key_secret_key));
}

}  // namespace

Json GatewayDeployment(const api::MoEDeployment& deployment, const Context& context) {
  const api::GatewaySpec& gateway = deployment.spec.gateway;
  const int grace = GatewayGraceSeconds(gateway);
  const int drain = std::max(0, grace - kUnreadySeconds - kGraceMarginSeconds);
  const int64_t hold = std::max<int64_t>(1, absl::ToInt64Seconds(gateway.max_hold));

  Json container = GatewayContainer(context);
  Json spec = BarePodSpec(GatewayName(deployment.name));
  const std::string model = AddModel(deployment.spec.model.uri, &spec, &container);
  container["args"] = Json::array({"--coordinator",
                                   context.coordinator_address,
                                   "--deployment",
                                   absl::StrCat(deployment.ns, "/", deployment.name),
                                   "--model",
                                   model,
                                   "--served-model-name",
                                   deployment.spec.model.name,
                                   "--host",
                                   "0.0.0.0",
                                   "--port",
                                   absl::StrCat(kGatewayPort),
                                   "--metrics-port",
                                   absl::StrCat(kGatewayMetricsPort),
                                   "--failover-seconds",
                                   absl::StrCat(hold),
                                   "--unready-seconds",
                                   absl::StrCat(kUnreadySeconds),
                                   "--drain-seconds",
                                   absl::StrCat(drain)});
  AddApiKey(gateway, &spec, &container);
  AddIdentity(&spec, &container);
  AddTmp(&spec, &container);
  spec["terminationGracePeriodSeconds"] = grace;
  spec["topologySpreadConstraints"] = Json::array(
      {Json{{"maxSkew", 1},
            {"topologyKey", "kubernetes.io/hostname"},
            {"whenUnsatisfiable", "ScheduleAnyway"},
            {"labelSelector", {{"matchLabels", PodSelector(deployment.name, kGateway)}}}}});
  spec["containers"] = Json::array({std::move(container)});

  Json pod{{"metadata",
            {{"labels", ChildLabels(deployment.name, kGateway)},
             {"annotations",
              {{"prometheus.io/scrape", "true"},
               {"prometheus.io/port", absl::StrCat(kGatewayMetricsPort)},
               {"prometheus.io/path", "/metrics"}}}}},
           {"spec", std::move(spec)}};
  MergePodTemplate(gateway.pod_template, &pod);
  return Json{
      {"apiVersion", kube::kDeployments.ApiVersion()},
      {"kind", kube::kDeployments.kind},
      {"metadata", ChildMetadata(deployment, GatewayName(deployment.name),
                                 ChildLabels(deployment.name, kGateway))},
      {"spec",
       {{"replicas", gateway.replicas},
        {"revisionHistoryLimit", 2},
        {"selector", {{"matchLabels", PodSelector(deployment.name, kGateway)}}},
        // Never fewer than promised: the next one is ready before one leaves.
        {"strategy",
         {{"type", "RollingUpdate"}, {"rollingUpdate", {{"maxUnavailable", 0}, {"maxSurge", 1}}}}},
        {"template", std::move(pod)}}}};
}

Json GatewayService(const api::MoEDeployment& deployment) {
  return Json{{"apiVersion", kube::kServices.ApiVersion()},
              {"kind", kube::kServices.kind},
              {"metadata", ChildMetadata(deployment, GatewayName(deployment.name),
                                         ChildLabels(deployment.name, kGateway))},
              {"spec",
               {{"type", "ClusterIP"},
                {"selector", PodSelector(deployment.name, kGateway)},
                {"ports", Json::array({Json{{"name", "http"},
                                            {"port", 80},
                                            {"targetPort", "http"},
                                            {"protocol", "TCP"},
                                            {"appProtocol", "http"}},
                                       Json{{"name", "metrics"},
                                            {"port", kGatewayMetricsPort},
                                            {"targetPort", "metrics"},
                                            {"protocol", "TCP"}}})}}}};
}

Json GatewayIngress(const api::MoEDeployment& deployment) {
  const api::IngressSpec& ingress = *deployment.spec.ingress;
  Json metadata = ChildMetadata(deployment, GatewayName(deployment.name),
                                ChildLabels(deployment.name, kGateway));
  Json annotations = Json::object();
  if (absl::StrContains(ingress.class_name, "nginx")) {
    // Both controllers that go by the name; each ignores the other's. Traefik buffers nothing and
    // has its timeouts at its entry points.
    const std::string timeout = absl::StrCat(kIngressTimeoutSeconds);
    annotations = {{"nginx.ingress.kubernetes.io/proxy-buffering", "off"},
                   {"nginx.ingress.kubernetes.io/proxy-read-timeout", timeout},
                   {"nginx.ingress.kubernetes.io/proxy-send-timeout", timeout},
                   {"nginx.ingress.kubernetes.io/proxy-body-size", "8m"},
                   {"nginx.org/proxy-buffering", "false"},
                   {"nginx.org/proxy-read-timeout", timeout + "s"},
                   {"nginx.org/proxy-send-timeout", timeout + "s"},
                   {"nginx.org/client-max-body-size", "8m"}};
  }
  for (const auto& [key, value] : ingress.annotations) annotations[key] = value;
  if (!annotations.empty()) metadata["annotations"] = std::move(annotations);

  Json rule{{"http",
             {{"paths", Json::array({Json{{"path", "/"},
                                          {"pathType", "Prefix"},
                                          {"backend",
                                           {{"service",
                                             {{"name", GatewayName(deployment.name)},
                                              {"port", {{"name", "http"}}}}}}}}})}}}};
  if (!ingress.host.empty()) rule["host"] = ingress.host;
  Json spec{{"rules", Json::array({std::move(rule)})}};
  if (!ingress.class_name.empty()) spec["ingressClassName"] = ingress.class_name;
  if (!ingress.tls_secret_name.empty()) {
    Json tls{{"secretName", ingress.tls_secret_name}};
    if (!ingress.host.empty()) tls["hosts"] = Json::array({ingress.host});
    spec["tls"] = Json::array({std::move(tls)});
  }
  return Json{{"apiVersion", kube::kIngresses.ApiVersion()},
              {"kind", kube::kIngresses.kind},
              {"metadata", std::move(metadata)},
              {"spec", std::move(spec)}};
}

}  // namespace moe::manifests
