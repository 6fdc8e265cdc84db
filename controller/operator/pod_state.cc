#include "controller/operator/pod_state.h"

#include <cstdint>

#include "controller/manifests/names.h"

namespace moe::controller {

using kube::Json;

bool IsComponent(const Json& pod, const char* component) {
  return manifests::LabelOf(pod, manifests::kLabelComponent) == component;
}

bool IsTerminating(const Json& object) {
  return object.contains(Json::json_pointer("/metadata/deletionTimestamp"));
}

bool HasEnded(const Json& pod) {
  const Json::json_pointer pointer("/status/phase");
  return pod.contains(pointer) && (pod[pointer] == "Failed" || pod[pointer] == "Succeeded");
}

absl::Duration GraceOf(const Json& pod) {
  const Json::json_pointer pointer("/metadata/deletionGracePeriodSeconds");
  if (!IsTerminating(pod) || !pod.contains(pointer) || !pod[pointer].is_number_integer()) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(pod[pointer].get<int64_t>());
}

}  // namespace moe::controller
