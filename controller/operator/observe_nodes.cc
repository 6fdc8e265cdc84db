#include "controller/operator/observe_nodes.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "planner/catalog/built_in.h"

namespace moe::controller {
namespace {

using kube::Json;
using reconcile::GpuInventory;
using reconcile::GpuPool;

constexpr char kGpuMemoryLabel[] = "nvidia.com/gpu.memory";  // of one GPU, in MiB
constexpr char kGpuResource[] = "nvidia.com/gpu";
constexpr int kMaxGpusOfNode = 1024;

// A null value where the path leads nowhere.
const Json& At(const Json& object, const char* pointer) {
  static const auto* const kNothing = new Json();
  const Json::json_pointer at(pointer);
  return object.contains(at) ? object[at] : *kNothing;
}

std::string TextOf(const Json& object, const char* field) {
  const auto found = object.is_object() ? object.find(field) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

int64_t NumberOf(const Json& value) {
  int64_t number = 0;
  if (value.is_number_integer()) return value.get<int64_t>();
  return value.is_string() && absl::SimpleAtoi(value.get_ref<const std::string&>(), &number)
             ? number
             : 0;
}

bool HasLabels(const Json& labels, const Json& selector) {
  if (!selector.is_object()) return true;
  return std::all_of(selector.items().begin(), selector.items().end(), [&](const auto& wanted) {
    return labels.is_object() && labels.contains(wanted.key()) &&
           labels[wanted.key()] == wanted.value();
  });
}

bool Tolerates(const Json& toleration, const Json& taint) {
  const std::string key = TextOf(toleration, "key");
  const std::string effect = TextOf(toleration, "effect");
  if (!effect.empty() && effect != TextOf(taint, "effect")) return false;
  const bool exists = TextOf(toleration, "operator") == "Exists";
  if (key.empty()) return exists;
  return key == TextOf(taint, "key") &&
         (exists || TextOf(toleration, "value") == TextOf(taint, "value"));
}

bool ToleratesAll(const Json& tolerations, const Json& taints) {
  if (!taints.is_array()) return true;
  return std::all_of(taints.begin(), taints.end(), [&](const Json& taint) {
    if (TextOf(taint, "effect") == "PreferNoSchedule") return true;
    return tolerations.is_array() &&
           std::any_of(tolerations.begin(), tolerations.end(),
                       [&](const Json& toleration) { return Tolerates(toleration, taint); });
  });
}

// Why workers can't run on the node; empty: they can.
std::string WhyLeftOut(const Json& node, const Json& pod_template, int64_t num_gpus) {
  if (At(node, "/spec/unschedulable") == true) return "cordoned";
  if (!HasLabels(At(node, "/metadata/labels"), At(pod_template, "/spec/nodeSelector"))) {
    return "outside of worker.podTemplate's nodeSelector";
  }
  if (!ToleratesAll(At(pod_template, "/spec/tolerations"), At(node, "/spec/taints"))) {
    return "with a taint that worker.podTemplate does not tolerate";
  }
  if (num_gpus < 1) return "without allocatable nvidia.com/gpu";
  return "";
}

}  // namespace

GpuInventory ObserveGpus(const std::vector<std::shared_ptr<const Json>>& nodes,
                         const Json& pod_template, const std::vector<planner::Device>& devices,
                         const planner::Network& network) {
  GpuInventory inventory;
  inventory.network = network;
  std::map<std::string, GpuPool> pools;
  for (const std::shared_ptr<const Json>& node : nodes) {
    const Json& labels = At(*node, "/metadata/labels");
    const std::string product = TextOf(labels, kGpuProductLabel);
    if (product.empty()) continue;
    const Json& allocatable = At(*node, "/status/allocatable");
    const int64_t num_gpus = allocatable.is_object() && allocatable.contains(kGpuResource)
                                 ? NumberOf(allocatable[kGpuResource])
                                 : 0;
    if (const std::string why = WhyLeftOut(*node, pod_template, num_gpus); !why.empty()) {
      ++inventory.left_out[why];
      continue;
    }
    GpuPool& pool = pools[product];
    pool.product = product;
    int64_t mebibytes = 0;
    if (absl::SimpleAtoi(TextOf(labels, kGpuMemoryLabel), &mebibytes) && mebibytes > 0 &&
        mebibytes < int64_t{1} << 40) {
      // Of unequal nodes the one with the least counts.
      const int64_t bytes = mebibytes << 20;
      pool.memory_bytes = pool.memory_bytes == 0 ? bytes : std::min(pool.memory_bytes, bytes);
    }
    ++pool.nodes_by_gpus[static_cast<int>(std::min<int64_t>(num_gpus, kMaxGpusOfNode))];
  }
  for (auto& [product, pool] : pools) {
    if (const planner::Device* device = planner::FindProduct(devices, product)) {
      pool.device = *device;
    }
    inventory.pools.push_back(std::move(pool));
  }
  return inventory;
}

void TrimNode(Json* node) {
  Json trimmed = Json::object();
  for (const char* pointer :
       {"/metadata/name", "/metadata/uid", "/metadata/resourceVersion", "/metadata/labels",
        "/spec/taints", "/spec/unschedulable", "/status/allocatable"}) {
    if (const Json& value = At(*node, pointer); !value.is_null()) {
      trimmed[Json::json_pointer(pointer)] = value;
    }
  }
  *node = std::move(trimmed);
}

}  // namespace moe::controller
