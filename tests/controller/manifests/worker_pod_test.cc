#include "controller/manifests/worker_pod.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "controller/manifests/names.h"
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
using ::testing::UnorderedElementsAre;

Json Worker(const Json& pod) {
  const Json* container = FindContainer(pod["spec"], kWorker);
  return container == nullptr ? Json::object() : *container;
}

TEST(WorkerPodTest, SaysWhoItIs) {
  const Json pod = WorkerPod(SampleDeployment(), SampleContext(), SamplePlace());
  EXPECT_EQ(pod["metadata"]["name"], "olmoe-g1-s3-2");
  EXPECT_EQ(pod["metadata"]["namespace"], "models");
  EXPECT_EQ(pod["metadata"]["labels"], Json::parse(R"({
    "app.kubernetes.io/name": "moe-operator", "app.kubernetes.io/managed-by": "moe-operator",
    "app.kubernetes.io/instance": "olmoe", "app.kubernetes.io/component": "worker",
    "moe-operator.dev/deployment": "olmoe", "moe-operator.dev/group": "1",
    "moe-operator.dev/slot": "3", "moe-operator.dev/revision": "r1"})"));
  EXPECT_EQ(AnnotationOf(pod, kAnnotationIncarnation), "2");
  EXPECT_EQ(AnnotationOf(pod, kAnnotationRank), "");
  WorkerPlace replacement = SamplePlace();
  replacement.rank = 0;
  EXPECT_EQ(
      AnnotationOf(WorkerPod(SampleDeployment(), SampleContext(), replacement), kAnnotationRank),
      "0");
  EXPECT_EQ(pod["metadata"]["ownerReferences"], Json::parse(R"([{
    "apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "name": "olmoe",
    "uid": "5e0a", "controller": true, "blockOwnerDeletion": true}])"));
}

TEST(WorkerPodTest, RunsOneProcessThatIsNotRestarted) {
  const Json pod = WorkerPod(SampleDeployment(), SampleContext(), SamplePlace());
  EXPECT_EQ(pod["spec"]["restartPolicy"], "Never");
  EXPECT_EQ(pod["spec"]["serviceAccountName"], "olmoe-worker");
  EXPECT_FALSE(pod["spec"].contains("schedulingGates"));
  const Json worker = Worker(pod);
  EXPECT_EQ(worker["image"], "example.com/moe-worker:1");
  EXPECT_EQ(worker["command"], Json::array({"moe-worker"}));
  EXPECT_THAT(
      worker["args"].get<std::vector<std::string>>(),
      ElementsAre("--coordinator", "moe-operator-coordinator.moe-system.svc:7700", "--group",
                  "models/olmoe/1", "--worker-id", "$(POD_UID)", "--slot-hint", "-1", "--model",
                  "/model/olmoe/v1", "--engine-address", "$(POD_IP):7710", "--exchange-address",
                  "$(POD_IP):7711", "--metrics-address", "0.0.0.0:7712", "--advertise-metrics",
                  "$(POD_IP):7712", "--token-file", "/var/run/secrets/moe-operator/token",
                  "--ca-file", "/etc/moe-operator/ca/ca.crt", "--identity-dir", "/run/moe"));
  EXPECT_EQ(worker["terminationMessagePolicy"], "FallbackToLogsOnError");
}

TEST(WorkerPodTest, WaitsForItsGangBehindAGate) {
  WorkerPlace place = SamplePlace();
  place.gated = true;
  const Json pod = WorkerPod(SampleDeployment(), SampleContext(), place);
  EXPECT_EQ(pod["spec"]["schedulingGates"], Json::parse(R"([{"name": "moe-operator.dev/gang"}])"));
}

TEST(WorkerPodTest, PassesTheRestrictedPodSecurityLevel) {
  for (const api::Backend backend : {api::Backend::kCpu, api::Backend::kCuda}) {
    for (const char* uri : {"pvc://weights/a", "file:///models/a"}) {
      api::MoEDeployment deployment = SampleDeployment();
      deployment.spec.backend = backend;
      deployment.spec.model.uri = uri;
      EXPECT_THAT(
          RestrictedViolations(WorkerPod(deployment, SampleContext(), SamplePlace())["spec"]),
          IsEmpty());
      EXPECT_THAT(RestrictedViolations(InspectPod(deployment, SampleContext())["spec"]), IsEmpty());
    }
  }
}

TEST(WorkerPodTest, WritesNowhereButIntoItsOwnFolders) {
  const Json pod = WorkerPod(SampleDeployment(), SampleContext(), SamplePlace());
  const Json worker = Worker(pod);
  EXPECT_EQ(worker["securityContext"]["readOnlyRootFilesystem"], true);
  std::vector<std::string> writable;
  for (const Json& mount : worker["volumeMounts"]) {
    if (!mount.value("readOnly", false)) writable.push_back(mount["mountPath"]);
  }
  EXPECT_THAT(writable, UnorderedElementsAre("/run/moe", "/tmp"));
  EXPECT_EQ(pod["spec"]["automountServiceAccountToken"], false);
}

TEST(WorkerPodTest, MountsTheModelWhereItsUriSays) {
  struct Case {
    const char* uri;
    const char* folder;
    bool mounted;
  };
  for (const Case& test :
       {Case{"pvc://weights/olmoe/v1", "/model/olmoe/v1", true},
        Case{"pvc://weights/", "/model", true}, Case{"file:///opt/olmoe", "/opt/olmoe", false}}) {
    api::MoEDeployment deployment = SampleDeployment();
    deployment.spec.model.uri = test.uri;
    for (const Json& pod : {WorkerPod(deployment, SampleContext(), SamplePlace()),
                            InspectPod(deployment, SampleContext())}) {
      const auto args = Worker(pod)["args"].get<std::vector<std::string>>();
      const auto model = std::find(args.begin(), args.end(), "--model");
      ASSERT_NE(model, args.end());
      EXPECT_EQ(*(model + 1), test.folder) << test.uri;
      bool mounted = false;
      for (const Json& volume : pod["spec"]["volumes"]) {
        if (volume["name"] != "model") continue;
        mounted = true;
        EXPECT_EQ(volume["persistentVolumeClaim"],
                  Json::parse(R"({"claimName": "weights", "readOnly": true})"));
      }
      EXPECT_EQ(mounted, test.mounted) << test.uri;
    }
  }
}

TEST(WorkerPodTest, TakesGpusWithCudaWhateverTheTemplateAsksForBesides) {
  struct Case {
    const char* name;
    const char* resources;
    const char* limits;
  };
  for (const Case& test : {
           Case{"no resources", "null", R"({"nvidia.com/gpu": 2})"},
           Case{"memory alone", R"({"limits": {"memory": "8Gi"}})",
                R"({"memory": "8Gi", "nvidia.com/gpu": 2})"},
           Case{"a share of a GPU", R"({"limits": {"nvidia.com/mig-1g.10gb": 1}})",
                R"({"nvidia.com/mig-1g.10gb": 1})"},
       }) {
    api::MoEDeployment deployment = SampleDeployment();
    deployment.spec.backend = api::Backend::kCuda;
    deployment.spec.worker.gpus_per_pod = 2;
    const Json resources = Json::parse(test.resources);
    if (!resources.is_null()) {
      deployment.spec.worker.pod_template = {
          {"spec",
           {{"containers", Json::array({Json{{"name", "worker"}, {"resources", resources}}})}}}};
    }
    const Json worker = Worker(WorkerPod(deployment, SampleContext(), SamplePlace()));
    EXPECT_EQ(worker["resources"]["limits"], Json::parse(test.limits)) << test.name;
    bool host_id = false;
    for (const Json& env : worker["env"]) host_id |= env["name"] == "NCCL_HOSTID";
    EXPECT_TRUE(host_id);
    // Looking at the model's files takes none of them.
    const Json inspect = Worker(InspectPod(deployment, SampleContext()));
    EXPECT_EQ(inspect["resources"].dump().find("nvidia"), std::string::npos) << test.name;
  }
}

TEST(WorkerPodTest, OneProcessIsStartedAsEver) {
  const Json worker = Worker(WorkerPod(SampleDeployment(), SampleContext(), SamplePlace()));
  EXPECT_EQ(worker["args"].dump().find("process"), std::string::npos);
  EXPECT_EQ(worker["ports"].size(), 3u);
  EXPECT_EQ(worker["resources"]["requests"]["cpu"], "10m");
}

TEST(WorkerPodTest, SeveralProcessesShareAPodAndListenOnPortsOfTheirOwn) {
  for (const api::Backend backend : {api::Backend::kCpu, api::Backend::kCuda}) {
    const bool cuda = backend == api::Backend::kCuda;
    SCOPED_TRACE(cuda ? "CUDA" : "CPU");
    api::MoEDeployment deployment = SampleDeployment();
    deployment.spec.backend = backend;
    deployment.spec.worker.gpus_per_pod = 4;
    deployment.status.model.emplace().weight_bytes = uint64_t{1} << 30;
    WorkerPlace place = SamplePlace();
    place.rank = 8;
    const Json pod = WorkerPod(deployment, SampleContext(), place);
    const Json worker = Worker(pod);
    const auto args = worker["args"].get<std::vector<std::string>>();
    const auto flag = std::find(args.begin(), args.end(), "--processes");
    ASSERT_NE(flag, args.end());
    EXPECT_EQ(*(flag + 1), "4");
    EXPECT_EQ(std::count(args.begin(), args.end(), "--gpu-per-process"), cuda ? 1 : 0);
    std::map<std::string, int> ports;
    for (const Json& port : worker["ports"]) ports[port["name"]] = port["containerPort"];
    EXPECT_EQ(ports, (std::map<std::string, int>{{"engine", 7710},
                                                 {"engine-1", 7720},
                                                 {"engine-2", 7730},
                                                 {"engine-3", 7740},
                                                 {"exchange", 7711},
                                                 {"exchange-1", 7721},
                                                 {"exchange-2", 7731},
                                                 {"exchange-3", 7741},
                                                 {"metrics", 7712},
                                                 {"metrics-1", 7722},
                                                 {"metrics-2", 7732},
                                                 {"metrics-3", 7742}}));
    EXPECT_EQ(worker["readinessProbe"]["httpGet"]["port"], "metrics");
    EXPECT_EQ(AnnotationOf(pod, kAnnotationRank), "8-11");
    // A quarter of the weights for each pod of four, and four processes.
    EXPECT_EQ(worker["resources"]["requests"],
              Json({{"cpu", cuda ? "4" : "40m"}, {"memory", "448Mi"}}));
    EXPECT_EQ(worker["resources"].contains("limits"), cuda);
    if (cuda) {
      EXPECT_EQ(worker["resources"]["limits"], Json({{"nvidia.com/gpu", 4}}));
    }
    EXPECT_THAT(worker["env"],
                testing::Contains(Json{{"name", "MOE_GROUP_SIZE"}, {"value", "16"}}));
    EXPECT_THAT(worker["env"],
                testing::Contains(Json{{"name", "MOE_BACKEND"}, {"value", cuda ? "cuda" : "cpu"}}));
    EXPECT_FALSE(pod["spec"].contains("hostIPC"));
  }
}

TEST(WorkerPodTest, NvlinkAcrossPodsSharesTheNodesMemoryAndNothingElseOfIt) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.backend = api::Backend::kCuda;
  const Json without = WorkerPod(deployment, SampleContext(), SamplePlace());
  deployment.spec.worker.nvlink_across_pods = true;
  Json with = WorkerPod(deployment, SampleContext(), SamplePlace());
  EXPECT_EQ(with["spec"]["hostIPC"], true);
  EXPECT_THAT(Worker(with)["env"],
              testing::Contains(Json{{"name", "NCCL_CUMEM_ENABLE"}, {"value", "0"}}));
  with["spec"].erase("hostIPC");
  for (Json& container : with["spec"]["containers"]) {
    if (container["name"] == "worker") container["env"].erase(container["env"].size() - 1);
  }
  EXPECT_EQ(with, without);
  // Who only looks at files shares nothing.
  EXPECT_FALSE(InspectPod(deployment, SampleContext())["spec"].contains("hostIPC"));
}

TEST(WorkerPodTest, AvoidsNodesWhateverTheTemplateAsksOfThem) {
  WorkerPlace place = SamplePlace();
  EXPECT_FALSE(WorkerPod(SampleDeployment(), SampleContext(), place)["spec"].contains("affinity"));
  place.avoid_nodes = {"n1", "n2"};
  const Json::json_pointer terms(
      "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms");
  const Json avoided = Json::parse(R"([
      {"key": "metadata.name", "operator": "NotIn", "values": ["n1"]},
      {"key": "metadata.name", "operator": "NotIn", "values": ["n2"]}])");
  api::MoEDeployment deployment = SampleDeployment();
  EXPECT_EQ(WorkerPod(deployment, SampleContext(), place)["spec"][terms],
            Json::array({Json{{"matchFields", avoided}}}));
  const Json zone = Json::parse(R"([{"key": "zone", "operator": "Exists"}])");
  const Json kind = Json::parse(R"([{"key": "kind", "operator": "Exists"}])");
  Json theirs;
  theirs[Json::json_pointer("/spec") / "affinity" / "nodeAffinity" /
         "requiredDuringSchedulingIgnoredDuringExecution" / "nodeSelectorTerms"] =
      Json::array({Json{{"matchExpressions", zone}}, Json{{"matchExpressions", kind}}});
  deployment.spec.worker.pod_template = theirs;
  EXPECT_EQ(WorkerPod(deployment, SampleContext(), place)["spec"][terms],
            Json::array({Json{{"matchExpressions", zone}, {"matchFields", avoided}},
                         Json{{"matchExpressions", kind}, {"matchFields", avoided}}}))
      << "one alternative is enough for the scheduler";
}

TEST(WorkerPodTest, AsksForItsShareOfTheWeights) {
  api::MoEDeployment deployment = SampleDeployment();
  const auto memory = [&deployment] {
    return Worker(
        WorkerPod(deployment, SampleContext(), SamplePlace()))["resources"]["requests"]["memory"];
  };
  EXPECT_EQ(memory(), "48Mi");
  deployment.status.model.emplace().weight_bytes = uint64_t{1} << 30;
  EXPECT_EQ(memory(), "304Mi");
}

TEST(WorkerPodTest, ServesUntilTheGatewaysOfADeletedDeploymentHaveDrained) {
  api::MoEDeployment deployment = SampleDeployment();
  Json pod = WorkerPod(deployment, SampleContext(), SamplePlace());
  EXPECT_EQ(pod["spec"]["terminationGracePeriodSeconds"], 130);
  EXPECT_THAT(Worker(pod)["env"],
              testing::Contains(Json{{"name", "MOE_FINISH_EPOCH"}, {"value", "true"}}));
  // The kubelet waits for a hook to its end, also when the worker has long gone.
  EXPECT_FALSE(Worker(pod).contains("lifecycle"));

  deployment.spec.gateway.pod_template = {{"spec", {{"terminationGracePeriodSeconds", 30}}}};
  pod = WorkerPod(deployment, SampleContext(), SamplePlace());
  EXPECT_EQ(pod["spec"]["terminationGracePeriodSeconds"], 40);
}

TEST(InspectPodTest, LooksAtTheModelWithTheTemplatesOfWorkers) {
  api::MoEDeployment deployment = SampleDeployment();
  deployment.spec.worker.pod_template = Json::parse(R"({"spec": {
    "initContainers": [{"name": "fetch", "image": "f",
                        "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}}}],
    "volumes": [{"name": "models", "emptyDir": {}}],
    "containers": [{"name": "worker", "args": ["--threads", "4"],
                    "readinessProbe": {"tcpSocket": {"port": 1}},
                    "volumeMounts": [{"name": "models", "mountPath": "/models"}]}]}})");
  const Json pod = InspectPod(deployment, SampleContext());
  EXPECT_EQ(pod["metadata"]["name"], "olmoe-inspect");
  EXPECT_EQ(AnnotationOf(pod, kAnnotationModelUri), "pvc://weights/olmoe/v1");
  EXPECT_EQ(pod["spec"]["restartPolicy"], "Never");
  EXPECT_EQ(pod["spec"]["initContainers"][0]["resources"]["limits"], Json({{"memory", "1Gi"}}));
  const Json worker = Worker(pod);
  EXPECT_EQ(worker["args"], Json::array({"--inspect", "--model", "/model/olmoe/v1"}));
  EXPECT_FALSE(worker.contains("readinessProbe"));
  EXPECT_EQ(worker["volumeMounts"].back()["mountPath"], "/models");
}

TEST(ThreadsTest, AreTheContainersWholeCpus) {
  struct Case {
    const char* resources;
    int threads;
  };
  for (const Case& test :
       {Case{R"({})", 1}, Case{R"({"requests": {"cpu": "10m"}})", 1},
        Case{R"({"requests": {"cpu": "3500m"}})", 3}, Case{R"({"requests": {"cpu": 8}})", 8},
        Case{R"({"requests": {"cpu": "8"}, "limits": {"cpu": "2"}})", 2},
        Case{R"({"requests": {"cpu": "nonsense"}})", 1}}) {
    const Json pod{
        {"spec",
         {{"containers",
           Json::array({Json{{"name", "worker"}, {"resources", Json::parse(test.resources)}}})}}}};
    EXPECT_EQ(ThreadsOf(pod, 1), test.threads) << test.resources;
    EXPECT_EQ(ThreadsOf(pod, 4), std::max(test.threads / 4, 1)) << test.resources;
  }
  EXPECT_EQ(ThreadsOf(Json::object(), 1), 1);
}

}  // namespace
}  // namespace moe::manifests
