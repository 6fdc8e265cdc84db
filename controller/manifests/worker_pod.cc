#include "controller/manifests/worker_pod.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "controller/api/quantity.h"
#include "controller/manifests/names.h"
#include "controller/manifests/pod_parts.h"
#include "controller/manifests/pod_template.h"
#include "identity/worker_id.h"

namespace moe::manifests {
namespace {

using kube::Json;

// What a process needs beside weights: code, gRPC, buffers.
constexpr uint64_t kProcessBytes = uint64_t{48} << 20;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr char kGpu[] = "nvidia.com/gpu";

// What each pod's ranks read of the weights, and what its processes need besides. The KV cache and
// the attention weights are only some ranks', and which pod becomes one of them is decided after
// scheduling: who needs a guarantee for these asks for it in the pod template.
std::string MemoryRequest(const api::MoEDeployment& deployment, int num_slots) {
  uint64_t num_bytes = kProcessBytes * static_cast<uint64_t>(deployment.spec.worker.gpus_per_pod);
  if (deployment.status.model.has_value()) {
    num_bytes += deployment.status.model->weight_bytes / static_cast<uint64_t>(num_slots);
  }
  return absl::StrCat((num_bytes + kMiB - 1) / kMiB, "Mi");
}

bool NamesGpu(const Json& container) {
  const Json::json_pointer limits("/resources/limits");
  if (!container.contains(limits) || !container[limits].is_object()) return false;
  for (const auto& [resource, amount] : container[limits].items()) {
    // A share of a GPU (nvidia.com/mig-1g.10gb) counts.
    if (absl::StartsWith(resource, "nvidia.com/")) return true;
  }
  return false;
}

// A template that sets `resources` for its own reasons must not lose the GPU.
void EnsureGpu(int num_gpus, Json* pod_spec) {
  for (Json& container : (*pod_spec)["containers"]) {
    if (!IsNamed(container, kWorker) || NamesGpu(container)) continue;
    Json& resources = container["resources"];
    if (!resources.is_object()) resources = Json::object();
    resources["limits"][kGpu] = num_gpus;
  }
}

// Whatever else the template asks of nodes holds, too: each of its alternatives is narrowed.
void AvoidNodes(const std::vector<std::string>& nodes, Json* pod_spec) {
  if (nodes.empty()) return;
  Json& terms = (*pod_spec)["affinity"]["nodeAffinity"]
                           ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
  if (!terms.is_array() || terms.empty()) terms = Json::array({Json::object()});
  for (Json& term : terms) {
    for (const std::string& node : nodes) {
      // A field takes one value in each requirement.
      term["matchFields"].push_back(
          Json{{"key", "metadata.name"}, {"operator", "NotIn"}, {"values", Json::array({node})}});
    }
  }
}

void DropDevices(Json* container) {
  const auto resources = container->find("resources");
  if (resources == container->end() || !resources->is_object()) return;
  for (const char* kind : {"limits", "requests"}) {
    const auto amounts = resources->find(kind);
    if (amounts == resources->end() || !amounts->is_object()) continue;
    Json kept = Json::object();
    for (const auto& [resource, amount] : amounts->items()) {
      // Extended resources are those with a domain; hugepages-2Mi has none.
      if (!absl::StrContains(resource, "/")) kept[resource] = amount;
    }
    *amounts = std::move(kept);
  }
}

Json WorkerLabels(const api::MoEDeployment& deployment, const WorkerPlace& place) {
  Json labels = ChildLabels(deployment.name, kWorker);
  labels[kLabelGroup] = absl::StrCat(place.group);
  labels[kLabelSlot] = absl::StrCat(place.slot);
  labels[kLabelRevision] = place.revision;
  return labels;
}

std::string CpuRequest(bool cuda, int num_processes) {
  return cuda ? absl::StrCat(num_processes) : absl::StrCat(10 * num_processes, "m");
}

// Each process listens on ports of its own. Their names are what a PodMonitor goes by.
Json WorkerPorts(int num_processes) {
  Json ports = Json::array();
  for (int process = 0; process < num_processes; ++process) {
    const std::string suffix = process == 0 ? "" : absl::StrCat("-", process);
    for (const auto& [name, port] : {std::pair<const char*, int>("engine", kEnginePort),
                                     std::pair<const char*, int>("exchange", kExchangePort),
                                     std::pair<const char*, int>("metrics", kWorkerMetricsPort)}) {
      ports.push_back(Json{{"name", absl::StrCat(name, suffix)},
                           {"containerPort", port + process * identity::kProcessPortStride}});
    }
  }
  return ports;
}

Json WorkerContainer(const api::MoEDeployment& deployment, const Context& context,
                     const WorkerPlace& place) {
  const bool cuda = deployment.spec.backend == api::Backend::kCuda;
  const int num_processes = deployment.spec.worker.gpus_per_pod;
  Json env = Json::array(
      {FieldEnv("POD_UID", "metadata.uid"), FieldEnv("POD_NAME", "metadata.name"),
       FieldEnv("POD_IP", "status.podIP"), FieldEnv("NODE_NAME", "spec.nodeName"),
       Json{{"name", "MOE_GROUP"}, {"value", absl::StrCat(place.group)}},
       Json{{"name", "MOE_SLOT"}, {"value", absl::StrCat(place.slot)}},
       Json{{"name", "MOE_GROUP_SIZE"}, {"value", absl::StrCat(place.num_slots * num_processes)}},
       // Not among the arguments, which a template may replace.
       Json{{"name", "MOE_FINISH_EPOCH"}, {"value", "true"}}});
  // Whatever the image says, and not among the arguments either.
  env.push_back(Json{{"name", "MOE_BACKEND"}, {"value", cuda ? "cuda" : "cpu"}});
  // Ranks of one node find each other's GPUs by it, whatever the host names of their containers.
  if (cuda) env.push_back(FieldEnv("NCCL_HOSTID", "spec.nodeName"));
  if (deployment.spec.worker.nvlink_across_pods) {
    // The other form of sharing GPU memory hands descriptors over abstract sockets, which end at
    // the network namespace of a pod.
    env.push_back(Json{{"name", "NCCL_CUMEM_ENABLE"}, {"value", "0"}});
  }
  Json requests{{"cpu", CpuRequest(cuda, num_processes)},
                {"memory", MemoryRequest(deployment, place.num_slots)}};
  return Json{
      {"name", kWorker},
      {"image", context.worker_image},
      {"command", Json::array({"moe-worker"})},
      {"env", std::move(env)},
      {"ports", WorkerPorts(num_processes)},
      {"resources", {{"requests", std::move(requests)}}},
      {"securityContext", ContainerSecurity()},
      // The process answers, whatever its group does: a rank that waits for others is as ready as
      // it can be, and budgets count it. Process 0 stands for all of a pod: another one that ends
      // ends the pod, and one that hangs is the coordinator's to find.
      {"readinessProbe",
       {{"httpGet", {{"path", "/healthz"}, {"port", "metrics"}}}, {"periodSeconds", 5}}},
      // Shown in the status when it ends.
      {"terminationMessagePolicy", "FallbackToLogsOnError"}};
}

}  // namespace

Json WorkerPod(const api::MoEDeployment& deployment, const Context& context,
               const WorkerPlace& place) {
  Json container = WorkerContainer(deployment, context, place);
  Json spec = BarePodSpec(WorkerAccountName(deployment.name));
  const std::string model = AddModel(deployment.spec.model.uri, &spec, &container);
  container["args"] =
      Json::array({"--coordinator", context.coordinator_address, "--group",
                   absl::StrCat(deployment.ns, "/", deployment.name, "/", place.group),
                   "--worker-id", "$(POD_UID)", "--slot-hint", "-1", "--model", model,
                   "--engine-address", absl::StrCat("$(POD_IP):", kEnginePort),
                   "--exchange-address", absl::StrCat("$(POD_IP):", kExchangePort),
                   "--metrics-address", absl::StrCat("0.0.0.0:", kWorkerMetricsPort),
                   "--advertise-metrics", absl::StrCat("$(POD_IP):", kWorkerMetricsPort)});
  const int num_processes = deployment.spec.worker.gpus_per_pod;
  if (num_processes > 1) {
    container["args"].push_back("--processes");
    container["args"].push_back(absl::StrCat(num_processes));
    if (deployment.spec.backend == api::Backend::kCuda) {
      container["args"].push_back("--gpu-per-process");
    }
  }
  AddIdentity(&spec, &container);
  AddTmp(&spec, &container);
  // When the whole deployment is deleted, gateways finish their requests before workers go: a
  // worker stays until its epoch ends or the coordinator dismisses it. A preStop sleep would do
  // worse: once it has begun, the kubelet cuts it for nothing.
  spec["terminationGracePeriodSeconds"] = GatewayGraceSeconds(deployment.spec.gateway) + 10;
  // A process that ended is a pod that failed: the next incarnation takes its place.
  spec["restartPolicy"] = "Never";
  // Brings the node's /dev/shm with it, by which NCCL sees that two pods can share memory.
  if (deployment.spec.worker.nvlink_across_pods) spec["hostIPC"] = true;
  if (place.gated) spec["schedulingGates"] = Json::array({Json{{"name", kGangGate}}});
  spec["containers"] = Json::array({std::move(container)});

  Json metadata = ChildMetadata(
      deployment, WorkerPodName(deployment.name, place.group, place.slot, place.incarnation),
      WorkerLabels(deployment, place));
  metadata["annotations"] = {{kAnnotationIncarnation, absl::StrCat(place.incarnation)},
                             {"prometheus.io/scrape", "true"},
                             {"prometheus.io/port", absl::StrCat(kWorkerMetricsPort)},
                             {"prometheus.io/path", "/metrics"}};
  if (place.rank >= 0) {
    metadata["annotations"][kAnnotationRank] = RanksText(place.rank, num_processes);
  }
  Json pod{{"apiVersion", "v1"},
           {"kind", "Pod"},
           {"metadata", std::move(metadata)},
           {"spec", std::move(spec)}};
  MergePodTemplate(deployment.spec.worker.pod_template, &pod);
  AvoidNodes(place.avoid_nodes, &pod["spec"]);
  if (deployment.spec.backend == api::Backend::kCuda) {
    EnsureGpu(deployment.spec.worker.gpus_per_pod, &pod["spec"]);
  }
  return pod;
}

Json InspectPod(const api::MoEDeployment& deployment, const Context& context) {
  Json container{{"name", kWorker},
                 {"image", context.worker_image},
                 {"resources", {{"requests", {{"cpu", "10m"}, {"memory", "48Mi"}}}}},
                 {"securityContext", ContainerSecurity()},
                 {"terminationMessagePolicy", "FallbackToLogsOnError"}};
  Json spec = BarePodSpec(WorkerAccountName(deployment.name));
  const std::string model = AddModel(deployment.spec.model.uri, &spec, &container);
  AddTmp(&spec, &container);
  spec["terminationGracePeriodSeconds"] = 1;
  spec["restartPolicy"] = "Never";
  spec["containers"] = Json::array({std::move(container)});
  Json metadata = ChildMetadata(deployment, InspectPodName(deployment.name),
                                ChildLabels(deployment.name, kInspect));
  metadata["annotations"] = {{kAnnotationModelUri, deployment.spec.model.uri}};
  Json pod{{"apiVersion", "v1"},
           {"kind", "Pod"},
           {"metadata", std::move(metadata)},
           {"spec", std::move(spec)}};
  // What fetches or mounts the model for workers does it here too.
  MergePodTemplate(deployment.spec.worker.pod_template, &pod);
  if (pod["spec"].contains("initContainers")) {
    for (Json& merged : pod["spec"]["initContainers"]) DropDevices(&merged);
  }
  for (Json& merged : pod["spec"]["containers"]) {
    DropDevices(&merged);
    if (!IsNamed(merged, kWorker)) continue;
    // The template's are those of a worker that serves.
    merged["command"] = Json::array({"moe-worker"});
    merged["args"] = Json::array({"--inspect", "--model", model});
    for (const char* probe : {"readinessProbe", "livenessProbe", "startupProbe", "lifecycle"}) {
      merged.erase(probe);
    }
  }
  return pod;
}

int ThreadsOf(const Json& worker_pod, int num_processes) {
  const auto spec = worker_pod.find("spec");
  const Json* container = spec == worker_pod.end() ? nullptr : FindContainer(*spec, kWorker);
  if (container == nullptr) return 1;
  for (const char* kind : {"/resources/limits/cpu", "/resources/requests/cpu"}) {
    const Json::json_pointer pointer(kind);
    if (!container->contains(pointer)) continue;
    const Json& amount = (*container)[pointer];
    const absl::StatusOr<int64_t> milli =
        api::ParseMilliQuantity(amount.is_string() ? amount.get<std::string>() : amount.dump());
    if (milli.ok()) {
      return static_cast<int>(std::clamp<int64_t>(*milli / 1000 / num_processes, 1, 1024));
    }
  }
  return 1;
}

std::string RanksText(int first, int num_ranks) {
  return num_ranks == 1 ? absl::StrCat(first) : absl::StrCat(first, "-", first + num_ranks - 1);
}

}  // namespace moe::manifests
