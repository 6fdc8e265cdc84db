// Exchange and ControlChannel for ranks on one machine: one anonymous memory file per epoch.
//
// Rank 0 creates the file (memfd: it has no name, so nothing stays behind whatever dies) and its
// bootstrap says how other processes of the same user open it. Owners write their rows once; ranks
// read them in place and write expert outputs straight into the owner's result rows, so a message
// is a list of row numbers and a futex wake.
//
// Tested by tests/worker/exchange/shared_memory_test.cc.
#ifndef MOE_WORKER_EXCHANGE_SHARED_MEMORY_H_
#define MOE_WORKER_EXCHANGE_SHARED_MEMORY_H_

#include <memory>
#include <string>
#include <vector>

#include "worker/exchange/exchange.h"

namespace moe::exchange {

struct SharedMemoryOptions {
  absl::Duration step_deadline = absl::Seconds(10);
  absl::Duration join_deadline = absl::Seconds(10);
  // How long a waiting rank polls before it sleeps. 0 where ranks outnumber cores.
  absl::Duration spin = absl::ZeroDuration();
  // The cores that the ranks share, where ranks outnumber them: ranks that own no rows are then run
  // one per core and moved between these (turns.h). Empty: all are woken at once, and the kernel
  // places them.
  std::vector<int> cores = {};
};

class SharedMemoryGroup : public EpochExchange {
 public:
  // Rank 0: creates the memory. `bootstrap()` is what the other ranks need; it is a secret.
  static absl::StatusOr<std::unique_ptr<SharedMemoryGroup>> Create(
      const GroupShape& shape, uint64_t epoch, LocalExperts* experts,
      const SharedMemoryOptions& options);

  // Other ranks: maps rank 0's memory; refuses another epoch, shape or secret, and garbage.
  static absl::StatusOr<std::unique_ptr<SharedMemoryGroup>> Open(
      std::string_view bootstrap, const GroupShape& shape, uint64_t epoch, int rank,
      LocalExperts* experts, const SharedMemoryOptions& options);
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_SHARED_MEMORY_H_
