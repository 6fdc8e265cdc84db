#include "controller/manifests/pod_parts.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "controller/api/parse.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"

namespace moe::manifests {

using kube::Json;

int GatewayGraceSeconds(const api::GatewaySpec& gateway) {
  int seconds = kDefaultGatewayGraceSeconds;
  const Json& pod_template = gateway.pod_template;
  if (pod_template.is_object() && pod_template.contains("spec") &&
      pod_template["spec"].is_object()) {
    const auto grace = pod_template["spec"].find("terminationGracePeriodSeconds");
    if (grace != pod_template["spec"].end() && grace->is_number_integer()) {
      seconds = static_cast<int>(std::clamp<int64_t>(grace->get<int64_t>(), 0, 86400));
    }
  }
  return seconds;
}

Json BarePodSpec(const std::string& service_account) {
  return Json{{"serviceAccountName", service_account},
              // None of the pods asks the API server for anything.
              {"automountServiceAccountToken", false},
              {"enableServiceLinks", false},
              {"securityContext",
               {{"runAsNonRoot", true},
                {"runAsUser", kUser},
                {"runAsGroup", kUser},
                {"fsGroup", kUser},
                {"fsGroupChangePolicy", "OnRootMismatch"},
                {"seccompProfile", {{"type", "RuntimeDefault"}}}}}};
}

Json ContainerSecurity() {
  return Json{{"allowPrivilegeEscalation", false},
              {"readOnlyRootFilesystem", true},
              {"runAsNonRoot", true},
              {"capabilities", {{"drop", Json::array({"ALL"})}}},
              {"seccompProfile", {{"type", "RuntimeDefault"}}}};
}

Json FieldEnv(const std::string& name, const std::string& path) {
  return Json{{"name", name}, {"valueFrom", {{"fieldRef", {{"fieldPath", path}}}}}};
}

void AddVolume(Json volume, Json* pod_spec) { (*pod_spec)["volumes"].push_back(std::move(volume)); }

void AddMount(const std::string& volume, const std::string& path, bool read_only, Json* container) {
  Json mount{{"name", volume}, {"mountPath", path}};
  if (read_only) mount["readOnly"] = true;
  (*container)["volumeMounts"].push_back(std::move(mount));
}

std::string AddModel(const std::string& uri, Json* pod_spec, Json* container) {
  const absl::StatusOr<api::ModelLocation> location = api::ParseModelUri(uri);
  // A spec with another one was refused before anything is made for it.
  if (!location.ok()) return uri;
  if (location->claim.empty()) return location->path;
  AddVolume(Json{{"name", "model"},
                 {"persistentVolumeClaim", {{"claimName", location->claim}, {"readOnly", true}}}},
            pod_spec);
  AddMount("model", kModelMount, /*read_only=*/true, container);
  return location->path.empty() ? kModelMount : absl::StrCat(kModelMount, "/", location->path);
}

void AddIdentity(Json* pod_spec, Json* container) {
  AddVolume(Json{{"name", "moe-token"},
                 {"projected",
                  {{"sources", Json::array({Json{{"serviceAccountToken",
                                                  {{"audience", "moe-coordinator"},
                                                   {"expirationSeconds", 3600},
                                                   {"path", "token"}}}}})}}}},
            pod_spec);
  AddVolume(Json{{"name", "moe-ca"}, {"configMap", {{"name", kCaName}}}}, pod_spec);
  AddVolume(Json{{"name", "moe-keys"}, {"emptyDir", {{"medium", "Memory"}, {"sizeLimit", "1Mi"}}}},
            pod_spec);
  AddMount("moe-token", kTokenMount, /*read_only=*/true, container);
  AddMount("moe-ca", kCaMount, /*read_only=*/true, container);
  AddMount("moe-keys", kIdentityDir, /*read_only=*/false, container);
  for (std::string argument : {std::string("--token-file"), absl::StrCat(kTokenMount, "/token"),
                               std::string("--ca-file"), absl::StrCat(kCaMount, "/ca.crt"),
                               std::string("--identity-dir"), std::string(kIdentityDir)}) {
    (*container)["args"].push_back(std::move(argument));
  }
}

void AddTmp(Json* pod_spec, Json* container) {
  AddVolume(Json{{"name", "tmp"}, {"emptyDir", Json::object()}}, pod_spec);
  AddMount("tmp", "/tmp", /*read_only=*/false, container);
}

Json ChildMetadata(const api::MoEDeployment& deployment, const std::string& name, Json labels) {
  return Json{{"name", name},
              {"namespace", deployment.ns},
              {"labels", std::move(labels)},
              {"ownerReferences",
               Json::array({Json{{"apiVersion", kube::kMoeDeployments.ApiVersion()},
                                 {"kind", kube::kMoeDeployments.kind},
                                 {"name", deployment.name},
                                 {"uid", deployment.uid},
                                 {"controller", true},
                                 // Without it, deleting in the foreground does not wait for it.
                                 {"blockOwnerDeletion", true}}})}};
}

bool IsNamed(const Json& container, const std::string& name) {
  if (!container.is_object()) return false;
  const auto found = container.find("name");
  return found != container.end() && found->is_string() &&
         found->get_ref<const std::string&>() == name;
}

const Json* FindContainer(const Json& pod_spec, const std::string& name) {
  const auto containers = pod_spec.find("containers");
  if (containers == pod_spec.end() || !containers->is_array()) return nullptr;
  for (const Json& container : *containers) {
    if (IsNamed(container, name)) return &container;
  }
  return nullptr;
}

}  // namespace moe::manifests
