// One communicator as several threads may use it: the engine's enqueues, a watchdog's looks for
// errors, and any thread's ends it.
//
// NCCL frees a communicator in its abort, so no other call may be inside it then. Each call here
// holds one lock for its own time, which is short because communicators are non-blocking: an abort
// waits for a call that enqueues, never for one that waits for other ranks. Who waits polls. The
// abort itself waits for captured graphs that hold the communicator, outside the lock: whoever owns
// them may be in a call here, which now returns Aborted.
//
// Tested by tests/worker/exchange/nccl/nccl_session_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_SESSION_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_SESSION_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "worker/exchange/nccl/nccl_api.h"

namespace moe::exchange {

// One transfer of a group, with its memory.
struct Transfer {
  enum class Kind { kSend, kReceive, kAllGather, kBroadcast };
  Kind kind = Kind::kSend;
  int peer = 0;                // the other rank; the root of a broadcast; unused by an all-gather
  const void* from = nullptr;  // device, [num_bytes]; not of a receive
  void* to = nullptr;          // device; [num_ranks, num_bytes] of an all-gather; not of a send
  size_t num_bytes = 0;        // of an all-gather: of each rank

  bool operator==(const Transfer&) const = default;
};

// Thread-safe. All calls but Abort return Aborted after Abort, and the first error that the
// communicator told after that.
class NcclSession {
 public:
  NcclSession() = default;
  // Aborts what was not closed.
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;

  // Once. Begins to connect; IsReady says when that is done.
  absl::Status Connect(NcclApi* api, const NcclId& id, int num_ranks, int rank)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether nothing is under way in the communicator. It is not about the stream: what was enqueued
  // may not have run. An error that came up meanwhile is told here.
  absl::StatusOr<bool> IsReady() ABSL_LOCKS_EXCLUDED(mutex_);

  // Enqueues the transfers as one group. The caller waits for IsReady before it enqueues anything
  // else. FailedPrecondition while something is under way.
  absl::Status Enqueue(absl::Span<const Transfer> transfers) ABSL_LOCKS_EXCLUDED(mutex_);

  // The memory stays as it is until the session has ended.
  absl::Status Register(void* buffer, size_t num_bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  // The orderly end, after which IsReady has to say yes before FinishClose. Ranks that can't do it
  // abort.
  absl::Status BeginClose() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status FinishClose() ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends everything, kernels that wait in the stream included, and waits until graphs that hold
  // transfers are gone, which another thread has to see to. Any thread, any number of times; only
  // the first call waits.
  void Abort() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::Status CheckUsable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first error stays.
  absl::Status Keep(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status EnqueueOne(const Transfer& transfer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  std::unique_ptr<NcclCommunicator> communicator_ ABSL_GUARDED_BY(mutex_);
  std::vector<void*> handles_ ABSL_GUARDED_BY(mutex_);  // of what is registered
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool was_connected_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_under_way_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_aborted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_SESSION_H_
