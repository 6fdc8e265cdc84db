// The restricted Pod Security level, as far as the API server checks it on a pod's fields.
#ifndef MOE_TESTS_CONTROLLER_MANIFESTS_RESTRICTED_H_
#define MOE_TESTS_CONTROLLER_MANIFESTS_RESTRICTED_H_

#include <algorithm>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace moe::manifests {

// What the level forbids in `pod_spec`, one sentence each; empty: nothing.
inline std::vector<std::string> RestrictedViolations(const nlohmann::json& pod_spec) {
  using Json = nlohmann::json;
  std::vector<std::string> violations;
  const auto at = [](const Json& object, const char* pointer) {
    const Json::json_pointer p(pointer);
    return object.contains(p) ? object[p] : Json();
  };
  for (const char* host : {"hostNetwork", "hostPID", "hostIPC"}) {
    if (pod_spec.value(host, false)) violations.push_back(std::string(host) + " is set");
  }
  if (pod_spec.contains("volumes")) {
    for (const Json& volume : pod_spec["volumes"]) {
      for (const auto& [kind, value] : volume.items()) {
        static const std::vector<std::string> kAllowed = {
            "name",      "configMap",   "csi",
            "secret",    "downwardAPI", "emptyDir",
            "ephemeral", "projected",   "persistentVolumeClaim"};
        if (std::find(kAllowed.begin(), kAllowed.end(), kind) == kAllowed.end()) {
          violations.push_back("volume of kind " + kind);
        }
      }
    }
  }
  std::vector<Json> containers;
  for (const char* list : {"containers", "initContainers"}) {
    if (!pod_spec.contains(list)) continue;
    for (const Json& container : pod_spec[list]) containers.push_back(container);
  }
  for (const Json& container : containers) {
    const std::string name = container.value("name", "?");
    if (at(container, "/securityContext/allowPrivilegeEscalation") != Json(false)) {
      violations.push_back(name + " may escalate its privileges");
    }
    if (at(container, "/securityContext/privileged") == Json(true)) {
      violations.push_back(name + " is privileged");
    }
    const Json drop = at(container, "/securityContext/capabilities/drop");
    if (drop != Json::array({"ALL"})) violations.push_back(name + " keeps capabilities");
    if (at(container, "/securityContext/capabilities/add").is_array()) {
      violations.push_back(name + " adds capabilities");
    }
    Json non_root = at(container, "/securityContext/runAsNonRoot");
    if (non_root.is_null()) non_root = at(pod_spec, "/securityContext/runAsNonRoot");
    if (non_root != Json(true)) violations.push_back(name + " may run as root");
    if (at(container, "/securityContext/runAsUser") == Json(0)) {
      violations.push_back(name + " runs as root");
    }
    Json seccomp = at(container, "/securityContext/seccompProfile/type");
    if (seccomp.is_null()) seccomp = at(pod_spec, "/securityContext/seccompProfile/type");
    if (seccomp != Json("RuntimeDefault")) violations.push_back(name + " has no seccomp profile");
    if (container.contains("ports")) {
      for (const Json& port : container["ports"]) {
        if (port.contains("hostPort")) violations.push_back(name + " takes a port of the host");
      }
    }
  }
  return violations;
}

}  // namespace moe::manifests

#endif  // MOE_TESTS_CONTROLLER_MANIFESTS_RESTRICTED_H_
