#include "controller/operator/token_reviewer.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/names.h"
#include "controller/operator/observe.h"

namespace moe::controller {
namespace {

using coordinator::PodIdentity;
using kube::Json;

constexpr char kAudience[] = "moe-coordinator";

std::string TextAt(const Json& object, const char* pointer) {
  const Json::json_pointer p(pointer);
  if (!object.contains(p) || !object[p].is_string()) return "";
  return object[p].get<std::string>();
}

// The only value of an entry in status.user.extra.
std::string ExtraOf(const Json& review, const std::string& name) {
  const Json::json_pointer extra("/status/user/extra");
  if (!review.contains(extra) || !review[extra].is_object()) return "";
  const auto found = review[extra].find(name);
  if (found == review[extra].end() || !found->is_array() || found->size() != 1 ||
      !found->front().is_string()) {
    return "";
  }
  return found->front().get<std::string>();
}

bool HasAudience(const Json& review) {
  const Json::json_pointer audiences("/status/audiences");
  if (!review.contains(audiences) || !review[audiences].is_array()) return false;
  for (const Json& audience : review[audiences]) {
    if (audience == kAudience) return true;
  }
  return false;
}

}  // namespace

TokenReviewer::TokenReviewer(kube::Api* api, Directory directory)
    : api_(api), directory_(std::move(directory)) {}

absl::StatusOr<std::shared_ptr<const Json>> TokenReviewer::FindPod(const kube::ObjectKey& key,
                                                                   std::string_view uid) const {
  std::shared_ptr<const Json> pod = directory_.pod(key);
  if (pod != nullptr && kube::MetadataString(*pod, "uid") == uid &&
      !TextAt(*pod, "/status/podIP").empty()) {
    return pod;
  }
  // The cache is behind a pod that has just started.
  absl::StatusOr<Json> present = api_->Get(kube::kPods, key);
  if (absl::IsNotFound(present.status())) {
    return absl::PermissionDeniedError("the token's pod does not exist");
  }
  if (!present.ok()) return absl::UnavailableError(present.status().message());
  return std::make_shared<const Json>(*std::move(present));
}

absl::StatusOr<PodIdentity> TokenReviewer::Review(std::string_view token) {
  const absl::StatusOr<Json> review = api_->Create(
      kube::kTokenReviews, "",
      Json{{"apiVersion", kube::kTokenReviews.ApiVersion()},
           {"kind", kube::kTokenReviews.kind},
           {"spec", {{"token", std::string(token)}, {"audiences", Json::array({kAudience})}}}});
  if (!review.ok()) {
    return absl::UnavailableError(
        absl::StrCat("a token can't be reviewed: ", review.status().message()));
  }
  const Json::json_pointer authenticated("/status/authenticated");
  if (!review->contains(authenticated) || (*review)[authenticated] != true ||
      !HasAudience(*review)) {
    return absl::UnauthenticatedError("the token is not valid for this coordinator");
  }
  const std::string user = TextAt(*review, "/status/user/username");
  const std::string pod_name = ExtraOf(*review, "authentication.kubernetes.io/pod-name");
  const std::string pod_uid = ExtraOf(*review, "authentication.kubernetes.io/pod-uid");
  const std::vector<std::string> parts = absl::StrSplit(user, ':');
  if (parts.size() != 4 || parts[0] != "system" || parts[1] != "serviceaccount" ||
      pod_name.empty() || pod_uid.empty()) {
    return absl::PermissionDeniedError("the token is not bound to a pod");
  }
  PodIdentity identity;
  identity.ns = parts[2];
  identity.pod_uid = pod_uid;
  const std::string& account = parts[3];

  absl::StatusOr<std::shared_ptr<const Json>> pod = FindPod({identity.ns, pod_name}, pod_uid);
  if (!pod.ok()) return pod.status();
  if (kube::MetadataString(**pod, "uid") != pod_uid ||
      manifests::LabelOf(**pod, manifests::kLabelManagedBy) != manifests::kProduct) {
    return absl::PermissionDeniedError("the token's pod is none of this operator's");
  }
  identity.deployment = manifests::LabelOf(**pod, manifests::kLabelDeployment);
  const std::shared_ptr<const Json> deployment =
      directory_.deployment({identity.ns, identity.deployment});
  if (deployment == nullptr) {
    return absl::PermissionDeniedError("the pod belongs to no MoEDeployment");
  }
  const std::string component = manifests::LabelOf(**pod, manifests::kLabelComponent);
  if (component == manifests::kWorker && OwnedBy(**pod, kube::MetadataString(*deployment, "uid"))) {
    identity.role = identity::Role::kWorker;
  } else if (component == manifests::kGateway &&
             TextAt(**pod, "/spec/serviceAccountName") == account &&
             account == manifests::GatewayName(identity.deployment)) {
    identity.role = identity::Role::kGateway;
  } else {
    return absl::PermissionDeniedError("the pod is no worker or gateway of its MoEDeployment");
  }
  identity.pod_ip = TextAt(**pod, "/status/podIP");
  if (identity.pod_ip.empty()) {
    return absl::UnavailableError("the pod's address is not known yet");
  }
  return identity;
}

}  // namespace moe::controller
