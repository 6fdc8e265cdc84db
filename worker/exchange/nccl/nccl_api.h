// NCCL as the exchange uses it: a few calls, each checked, none of which waits.
//
// What the real library asks of its callers (NCCL 2.28, user guide and source) is the contract
// here, so that a fake can hold callers to it:
//   - Communicators are non-blocking. A call may leave work under way (kUnderWay): then nothing but
//     Poll and Abort may be called, and nothing may be put into the stream, until Poll says kDone.
//   - The calls of one communicator are made by one thread at a time, Abort included: Abort frees
//     the communicator while another call may look at it.
//   - After an error a communicator can only be aborted.
//   - An id is used once. The thread that NCCL starts for it lives in the process that made it, so
//     that process has to be rank 0's.
//
// nccl_library.h is the real one; tests/worker/exchange/nccl/fake_nccl.h one between threads.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_API_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_API_H_

#include <array>
#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moe::exchange {

// How the ranks of one communicator find each other. A bearer secret: never logged, never stored.
struct NcclId {
  std::array<char, 128> bytes{};
};

enum class NcclProgress { kDone, kUnderWay };

// One rank's end of a communicator, with one stream into which it enqueues. What is still there
// when it is destroyed is aborted.
class NcclCommunicator {
 public:
  virtual ~NcclCommunicator() = default;

  // Whether the last call is done. An error that came up since, on this or another rank, is told
  // here: Unavailable where NCCL says that it came from another rank or the network.
  virtual absl::StatusOr<NcclProgress> Poll() = 0;

  // A group's transfers are one operation: they start together and may be matched in any order.
  // After GroupStart, GroupEnd has to be called whatever fails between.
  virtual absl::Status GroupStart() = 0;
  virtual absl::StatusOr<NcclProgress> GroupEnd() = 0;

  // Within a group. Device memory; num_bytes > 0, the same at both ends.
  virtual absl::Status Send(const void* from, size_t num_bytes, int to) = 0;
  virtual absl::Status Receive(void* to, size_t num_bytes, int from) = 0;
  // All ranks: to [num_ranks, num_bytes]; `from` may be this rank's place in it.
  virtual absl::Status AllGather(const void* from, void* to, size_t num_bytes) = 0;
  // All ranks; `from` is read at `root` alone and may be `to`.
  virtual absl::Status Broadcast(const void* from, void* to, size_t num_bytes, int root) = 0;

  // Tells NCCL about memory that transfers will use again and again, so that it need not copy it
  // first. The handle is for Deregister; null where NCCL finds nothing to do.
  virtual absl::StatusOr<void*> Register(void* buffer, size_t num_bytes) = 0;
  virtual absl::Status Deregister(void* handle) = 0;

  // The orderly end: Finalize, Poll until it is done, Destroy. Nothing may be called after Destroy.
  virtual absl::StatusOr<NcclProgress> Finalize() = 0;
  virtual absl::Status Destroy() = 0;

  // Ends everything that is under way, kernels in the stream included, waits until no graph holds
  // transfers of this communicator any more, and frees it with its registrations. Nothing may be
  // called after it.
  virtual void Abort() = 0;
};

class NcclApi {
 public:
  virtual ~NcclApi() = default;

  virtual absl::StatusOr<NcclId> MakeId() = 0;

  // Begins to connect; Poll says when that is done. The device is the calling thread's.
  virtual absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const NcclId& id, int num_ranks,
                                                                    int rank) = 0;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_API_H_
