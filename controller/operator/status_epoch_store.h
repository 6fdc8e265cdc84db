// Keeps a group's epoch in status.groups[].epoch of its MoEDeployment.
//
// A claim is a read and a write that carries the resourceVersion: it fails as soon as anything else
// was written in between, and then looks again. It is refused when the status carries another term
// than this controller's: another one leads now. So no two controllers claim one epoch, whatever
// became of their leases.
//
// Tested by tests/controller/operator/status_epoch_store_test.cc.
#ifndef MOE_CONTROLLER_OPERATOR_STATUS_EPOCH_STORE_H_
#define MOE_CONTROLLER_OPERATOR_STATUS_EPOCH_STORE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controller/coordinator/epoch_store.h"
#include "controller/kube/api.h"

namespace moe::controller {

struct StatusEpochStoreOptions {
  kube::ObjectKey deployment;
  std::string uid;  // another object of the same name is another deployment
  int group = 0;
  uint64_t term = 0;
  uint64_t last_epoch = 0;
  // Told each object that was written, so that nobody decides from an older one. May be empty.
  std::function<void(kube::Json written)> on_written;
  int max_attempts = 8;
  absl::Duration retry_delay = absl::Milliseconds(20);  // doubles
};

class StatusEpochStore : public coordinator::EpochStore {
 public:
  // `api` must outlive it.
  StatusEpochStore(kube::Api* api, StatusEpochStoreOptions options);

  uint64_t term() const override { return options_.term; }
  uint64_t last_epoch() const override { return last_epoch_; }

  // Besides the interface's: FailedPrecondition if another controller leads or the deployment or
  // its group is gone; AlreadyExists if somebody claimed it; what the API says otherwise.
  absl::Status Claim(uint64_t epoch) override;

 private:
  absl::Status ClaimOnce(uint64_t epoch, bool may_be_ours);

  kube::Api* const api_;
  const StatusEpochStoreOptions options_;
  uint64_t last_epoch_;
};

}  // namespace moe::controller

#endif  // MOE_CONTROLLER_OPERATOR_STATUS_EPOCH_STORE_H_
