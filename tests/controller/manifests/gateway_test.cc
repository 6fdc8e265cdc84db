#include "controller/manifests/gateway.h"

#include <algorithm>
#include <string>
#include <vector>

#include "controller/manifests/pod_parts.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/controller/manifests/restricted.h"
#include "tests/controller/manifests/sample.h"

namespace moe::manifests {
namespace {

using kube::Json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

Json PodSpecOf(const api::MoEDeployment& deployment) {
  return GatewayDeployment(deployment, SampleContext())["spec"]["template"]["spec"];
}

TEST(GatewayTest, RunsTheGatewayWithWhatItNeeds) {
  const Json spec = PodSpecOf(SampleDeployment());
  EXPECT_EQ(spec["containers"][0]["image"], "example.com/moe-gateway:1");
  EXPECT_THAT(
      spec["containers"][0]["args"].get<std::vector<std::string>>(),
      ElementsAre("--coordinator", "moe-operator-coordinator.moe-system.svc:7700", "--deployment",
                  "models/olmoe", "--model", "/model/olmoe/v1", "--served-model-name",
                  "olmoe-1b-7b", "--host", "0.0.0.0", "--port", "8000", "--metrics-port", "8001",
                  "--failover-seconds", "60", "--unready-seconds", "5", "--drain-seconds", "110",
                  "--token-file", "/var/run/secrets/moe-operator/token", "--ca-file",
                  "/etc/moe-operator/ca/ca.crt", "--identity-dir", "/run/moe"));
  EXPECT_THAT(RestrictedViolations(spec), IsEmpty());
}

TEST(GatewayTest, LeavesTimeToDrainWithinItsGracePeriod) {
  struct Case {
    int grace;
    const char* drain;
  };
  for (const Case& test : {Case{0, "0"}, Case{8, "0"}, Case{30, "20"}, Case{600, "590"}}) {
    api::MoEDeployment deployment = SampleDeployment();
    deployment.spec.gateway.pod_template = {
        {"spec", {{"terminationGracePeriodSeconds", test.grace}}}};
    const Json spec = PodSpecOf(deployment);
    EXPECT_EQ(spec["terminationGracePeriodSeconds"], test.grace);
    const auto args = spec["containers"][0]["args"].get<std::vector<std::string>>();
    const auto drain = std::find(args.begin(), args.end(), "--drain-seconds");
    EXPECT_EQ(*(drain + 1), test.drain) << test.grace;
  }
}

TEST(GatewayTest, IsRolledWithoutFewerReplicas) {
  const Json spec = GatewayDeployment(SampleDeployment(), SampleContext())["spec"];
  EXPECT_EQ(spec["replicas"], 2);
  EXPECT_EQ(spec["strategy"]["rollingUpdate"], Json({{"maxUnavailable", 0}, {"maxSurge", 1}}));
  const Json selector = spec["selector"]["matchLabels"];
  for (const auto& [label, value] : selector.items()) {
    EXPECT_EQ(spec["template"]["metadata"]["labels"][label], value) << label;
  }
}

TEST(GatewayTest, IsReadyAsLongAsItTakesOrHoldsRequests) {
  const Json probe = PodSpecOf(SampleDeployment())["containers"][0]["readinessProbe"];
  EXPECT_EQ(probe["httpGet"]["path"], "/ready");
  EXPECT_EQ(probe["httpGet"]["port"], "http");
  // Unready soon after SIGTERM, and not for one slow answer.
  EXPECT_EQ(probe["periodSeconds"], 3);
  EXPECT_EQ(probe["failureThreshold"], 2);
}

TEST(GatewayTest, ReadsItsKeyFromTheSecretThatIsNamed) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.gateway.api_key_secret_name = "keys";
  deployment.spec.gateway.api_key_secret_key = "olmoe";
  const Json spec = PodSpecOf(deployment);
  const auto args = spec["containers"][0]["args"].get<std::vector<std::string>>();
  const auto key_file = std::find(args.begin(), args.end(), "--api-key-file");
  ASSERT_NE(key_file, args.end());
  EXPECT_EQ(*(key_file + 1), "/etc/moe-operator/api-key/olmoe");
  Json secret;
  for (const Json& volume : spec["volumes"]) {
    if (volume["name"] == "api-key") secret = volume["secret"];
  }
  EXPECT_EQ(secret["secretName"], "keys");
  EXPECT_EQ(secret["items"], Json::parse(R"([{"key": "olmoe", "path": "olmoe"}])"));
}

TEST(GatewayTest, TheServiceLeadsToItsNamedPorts) {
  const Json service = GatewayService(SampleDeployment());
  EXPECT_EQ(service["metadata"]["name"], "olmoe-gateway");
  EXPECT_EQ(service["spec"]["ports"][0]["port"], 80);
  EXPECT_EQ(service["spec"]["ports"][0]["targetPort"], "http");
  EXPECT_EQ(service["spec"]["ports"][1]["port"], 8001);
}

TEST(IngressTest, PassesClassHostTlsAndAnnotationsThrough) {
  api::MoEDeployment deployment = SampleDeployment();
  api::IngressSpec& spec = deployment.spec.ingress.emplace();
  spec.host = "moe.example.com";
  spec.class_name = "traefik";
  spec.tls_secret_name = "moe-tls";
  spec.annotations = {{"cert-manager.io/issuer", "ca"}};
  const Json ingress = GatewayIngress(deployment);
  EXPECT_EQ(ingress["metadata"]["annotations"], Json({{"cert-manager.io/issuer", "ca"}}));
  EXPECT_EQ(ingress["spec"], Json::parse(R"({
    "ingressClassName": "traefik",
    "rules": [{"host": "moe.example.com", "http": {"paths": [{"path": "/", "pathType": "Prefix",
      "backend": {"service": {"name": "olmoe-gateway", "port": {"name": "http"}}}}]}}],
    "tls": [{"secretName": "moe-tls", "hosts": ["moe.example.com"]}]})"));
}

TEST(IngressTest, TellsNginxNotToBufferUnlessTheUserSaysOtherwise) {
  api::MoEDeployment deployment = SampleDeployment();
  api::IngressSpec& spec = deployment.spec.ingress.emplace();
  spec.class_name = "nginx-internal";
  spec.annotations = {{"nginx.ingress.kubernetes.io/proxy-read-timeout", "10"}};
  const Json annotations = GatewayIngress(deployment)["metadata"]["annotations"];
  EXPECT_EQ(annotations["nginx.ingress.kubernetes.io/proxy-buffering"], "off");
  EXPECT_EQ(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"], "10");
}

TEST(IngressTest, LeavesOutWhatIsNotGiven) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.ingress.emplace();
  const Json ingress = GatewayIngress(deployment);
  EXPECT_FALSE(ingress["spec"].contains("ingressClassName"));
  EXPECT_FALSE(ingress["spec"].contains("tls"));
  EXPECT_FALSE(ingress["spec"]["rules"][0].contains("host"));
  EXPECT_FALSE(ingress["metadata"].contains("annotations"));
}

}  // namespace
}  // namespace moe::manifests
