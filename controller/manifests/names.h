// What the operator's objects are called, and the labels by which they are found again.
//
// Pure. Tested by tests/controller/manifests/names_test.cc.
#ifndef MOE_CONTROLLER_MANIFESTS_NAMES_H_
#define MOE_CONTROLLER_MANIFESTS_NAMES_H_

#include <optional>
#include <string>

#include "controller/kube/api.h"

namespace moe::manifests {

inline constexpr char kLabelName[] = "app.kubernetes.io/name";
inline constexpr char kLabelManagedBy[] = "app.kubernetes.io/managed-by";
inline constexpr char kLabelInstance[] = "app.kubernetes.io/instance";
inline constexpr char kLabelComponent[] = "app.kubernetes.io/component";
inline constexpr char kLabelDeployment[] = "moe-operator.dev/deployment";
inline constexpr char kLabelGroup[] = "moe-operator.dev/group";
inline constexpr char kLabelSlot[] = "moe-operator.dev/slot";
inline constexpr char kLabelRevision[] = "moe-operator.dev/revision";
inline constexpr char kAnnotationIncarnation[] = "moe-operator.dev/incarnation";
// For people: the place in the group, known after the gang was scheduled.
inline constexpr char kAnnotationRank[] = "moe-operator.dev/rank";
// Of the object as it was built: an object that carries another hash is to be applied again.
inline constexpr char kAnnotationHash[] = "moe-operator.dev/content-hash";
// On inspect pods.
inline constexpr char kAnnotationModelUri[] = "moe-operator.dev/model-uri";
inline constexpr char kGangGate[] = "moe-operator.dev/gang";

inline constexpr char kProduct[] = "moe-operator";
inline constexpr char kWorker[] = "worker";
inline constexpr char kGateway[] = "gateway";
inline constexpr char kInspect[] = "inspect";
inline constexpr char kController[] = "controller";

// The ConfigMap with the CA bundle in each workload namespace, and the Secret with the CA itself in
// the operator's.
inline constexpr char kCaName[] = "moe-operator-ca";

inline constexpr int kCoordinatorPort = 7700;
inline constexpr int kEnginePort = 7710;
inline constexpr int kExchangePort = 7711;
inline constexpr int kWorkerMetricsPort = 7712;
inline constexpr int kGatewayPort = 8000;
inline constexpr int kGatewayMetricsPort = 8001;

// Every object of the operator, for watches: "app.kubernetes.io/managed-by=moe-operator".
std::string ManagedSelector();

std::string WorkerPodName(const std::string& deployment, int group, int slot, int incarnation);
std::string InspectPodName(const std::string& deployment);
std::string GroupName(const std::string& deployment, int group);  // budgets and policies of a group
std::string GatewayName(const std::string& deployment);
std::string WorkerAccountName(const std::string& deployment);

// {kLabelName, ...} of every child of a deployment.
kube::Json ChildLabels(const std::string& deployment, const std::string& component);
// The labels that select the pods of a component; immutable in a Deployment, so they never change.
kube::Json PodSelector(const std::string& deployment, const std::string& component);

// Fields of objects from a server, which may lack any of them: "" or nullopt then.
std::string LabelOf(const kube::Json& object, const std::string& label);
std::string AnnotationOf(const kube::Json& object, const std::string& annotation);
// A label or annotation that is a number of no more than nine digits.
std::optional<int> NumberOf(const std::string& text);

// 16 hexadecimal digits that change with the object; no secret can be kept by it.
std::string ContentHash(const kube::Json& object);

}  // namespace moe::manifests

#endif  // MOE_CONTROLLER_MANIFESTS_NAMES_H_
