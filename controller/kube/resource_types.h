// The kinds of objects that the controller reads or writes.
#ifndef MOE_CONTROLLER_KUBE_RESOURCE_TYPES_H_
#define MOE_CONTROLLER_KUBE_RESOURCE_TYPES_H_

#include "controller/kube/api.h"

namespace moe::kube {

inline const ResourceType kPods{"", "v1", "pods", "Pod"};
inline const ResourceType kServices{"", "v1", "services", "Service"};
inline const ResourceType kServiceAccounts{"", "v1", "serviceaccounts", "ServiceAccount"};
inline const ResourceType kConfigMaps{"", "v1", "configmaps", "ConfigMap"};
inline const ResourceType kSecrets{"", "v1", "secrets", "Secret"};
inline const ResourceType kPersistentVolumeClaims{"", "v1", "persistentvolumeclaims",
                                                  "PersistentVolumeClaim"};
inline const ResourceType kNodes{"", "v1", "nodes", "Node", /*namespaced=*/false};
inline const ResourceType kEvents{"events.k8s.io", "v1", "events", "Event"};
inline const ResourceType kDeployments{"apps", "v1", "deployments", "Deployment"};
inline const ResourceType kIngresses{"networking.k8s.io", "v1", "ingresses", "Ingress"};
inline const ResourceType kNetworkPolicies{"networking.k8s.io", "v1", "networkpolicies",
                                           "NetworkPolicy"};
inline const ResourceType kPodDisruptionBudgets{"policy", "v1", "poddisruptionbudgets",
                                                "PodDisruptionBudget"};
inline const ResourceType kLeases{"coordination.k8s.io", "v1", "leases", "Lease"};
// Only ever created; the answer is in its status.
inline const ResourceType kTokenReviews{"authentication.k8s.io", "v1", "tokenreviews",
                                        "TokenReview", /*namespaced=*/false};
inline const ResourceType kMoeDeployments{"moe-operator.dev", "v1alpha1", "moedeployments",
                                          "MoEDeployment"};

}  // namespace moe::kube

#endif  // MOE_CONTROLLER_KUBE_RESOURCE_TYPES_H_
