// Tells which pod holds a token: asks the API server (TokenReview), then looks for the pod.
//
// A token is bound to a pod's UID. It is taken only from a pod that this operator owns: a worker
// that belongs to a MoEDeployment by owner reference, or a gateway pod by its labels and its
// service account.
//
// Thread-safe. Tested by tests/controller/operator/token_reviewer_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_TOKEN_REVIEWER_H_
#define MOE_CONTROLLER_OPERATOR_TOKEN_REVIEWER_H_

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "controller/coordinator/authenticator.h"
#include "controller/kube/api.h"

namespace moe::controller {

class TokenReviewer : public coordinator::Authenticator {
 public:
  // What the caches hold; null: nothing. A pod that they don't have is asked for.
  struct Directory {
    std::function<std::shared_ptr<const kube::Json>(const kube::ObjectKey&)> pod;
    std::function<std::shared_ptr<const kube::Json>(const kube::ObjectKey&)> deployment;
  };

  // `api` must outlive it.
  TokenReviewer(kube::Api* api, Directory directory);

  absl::StatusOr<coordinator::PodIdentity> Review(std::string_view token) override;

 private:
  absl::StatusOr<std::shared_ptr<const kube::Json>> FindPod(const kube::ObjectKey& key,
                                                            std::string_view uid) const;

  kube::Api* const api_;
  const Directory directory_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_TOKEN_REVIEWER_H_
