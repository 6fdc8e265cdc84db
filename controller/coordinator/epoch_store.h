// Where a group's term and its last claimed epoch are kept, so that no (term, epoch) is ever used
// twice: a file in local mode (file_epoch_store.h), the MoEDeployment's status in Kubernetes.
#ifndef MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_
#define MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_

#include <cstdint>

#include "absl/status/status.h"

namespace moe::coordinator {

// Not thread-safe: a group's loop thread calls it.
class EpochStore {
 public:
  virtual ~EpochStore() = default;

  // Of this controller; above that of every earlier one.
  virtual uint64_t term() const = 0;
  // The highest that was ever given to Claim, by any controller.
  virtual uint64_t last_epoch() const = 0;

  // After OK, (term(), epoch) is durable and no other controller has it. After an error it may or
  // may not be; claim a higher one. InvalidArgument unless epoch > last_epoch(). May block for
  // seconds, which holds up this group's next epoch and nothing that runs.
  virtual absl::Status Claim(uint64_t epoch) = 0;
};

}  // namespace moe::coordinator

#endif  // MOE_CONTROLLER_COORDINATOR_EPOCH_STORE_H_
