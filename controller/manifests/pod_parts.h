// What the pods of workers, gateways and inspections have in common: the restricted security level,
// the model's volume, and who they are to the coordinator.
//
// Pure. Tested by tests/controller/manifests/worker_pod_test.cc and gateway_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_POD_PARTS_H_
#define MOE_CONTROLLER_MANIFESTS_POD_PARTS_H_

#include <string>

#include "controller/api/moe_deployment.h"
#include "controller/kube/api.h"

namespace moe::manifests {

inline constexpr int kUser = 65532;
inline constexpr char kModelMount[] = "/model";
inline constexpr char kTokenMount[] = "/var/run/secrets/moe-operator";
inline constexpr char kCaMount[] = "/etc/moe-operator/ca";
inline constexpr char kIdentityDir[] = "/run/moe";
inline constexpr char kApiKeyMount[] = "/etc/moe-operator/api-key";

// SIGTERM of a gateway: unready until no request has come for kUnreadySeconds, then running
// requests finish, until kGraceMarginSeconds before its grace period ends.
inline constexpr int kUnreadySeconds = 5;
inline constexpr int kGraceMarginSeconds = 5;
inline constexpr int kDefaultGatewayGraceSeconds = 120;

// The grace period of the gateway's pods, a template's included. Workers serve as long.
int GatewayGraceSeconds(const api::GatewaySpec& gateway);

// metadata, a spec without containers: the namespace's strictest security level, nothing mounted.
kube::Json BarePodSpec(const std::string& service_account);
kube::Json ContainerSecurity();

// {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
kube::Json FieldEnv(const std::string& name, const std::string& path);

void AddVolume(kube::Json volume, kube::Json* pod_spec);
void AddMount(const std::string& volume, const std::string& path, bool read_only,
              kube::Json* container);

// Mounts the claim of a pvc:// model; for file:/// the folder is the container's.
// Returns the model's folder in the container.
std::string AddModel(const std::string& uri, kube::Json* pod_spec, kube::Json* container);
// Token, CA bundle and a folder in memory for keys, and the arguments that name them.
void AddIdentity(kube::Json* pod_spec, kube::Json* container);
// /tmp, since the root file system is read-only.
void AddTmp(kube::Json* pod_spec, kube::Json* container);

// Of a namespaced child that goes when the deployment goes.
kube::Json ChildMetadata(const api::MoEDeployment& deployment, const std::string& name,
                         kube::Json labels);

// Whether an entry of a list of containers has this name.
bool IsNamed(const kube::Json& container, const std::string& name);
// The container `name` of a pod spec, or null.
const kube::Json* FindContainer(const kube::Json& pod_spec, const std::string& name);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_POD_PARTS_H_
