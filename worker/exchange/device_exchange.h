// How rows reach the experts of other ranks where all of them lie in the memory of GPUs: what
// exchange.h is for the memory of the host.
//
// All ranks of an epoch take part in every layer of a step, with rows or without: what moves is
// fixed by the plan, which every rank has. Calls enqueue work in the stream that the exchange was
// made with and return; where one waits for the device it says so.
#ifndef MOE_WORKER_EXCHANGE_DEVICE_EXCHANGE_H_
#define MOE_WORKER_EXCHANGE_DEVICE_EXCHANGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/bf16.h"
#include "kernels/experts.h"

namespace moe::exchange {

// Rows for the experts of this rank, sorted by expert. Device memory; local expert e (the e-th of
// this rank's, ascending by id) has rows[offsets[e]] .. rows[offsets[e + 1] - 1].
struct DevicePairs {
  const int32_t* offsets = nullptr;          // [num local experts + 1]
  const kernels::ExpertRow* rows = nullptr;  // [max_pairs]
  int max_pairs = 0;                         // the host's bound for offsets[num local experts]
  int max_pairs_of_expert = 0;               // the host's bound for those of one expert
};

// The experts that this rank holds. Implemented by the model; called inside RunLayer.
class DeviceExperts {
 public:
  virtual ~DeviceExperts() = default;
  // Enqueues, in the stream that both sides were made with:
  //   x    [any, hidden] bf16, device
  //   out  [any, hidden] bf16, device, written at out_row
  virtual absl::Status Run(int layer, const DevicePairs& pairs, const kernels::BFloat16* x,
                           kernels::BFloat16* out) = 0;
};

class DeviceExchange {
 public:
  virtual ~DeviceExchange() = default;

  // Where the owner writes the rows of the next layer and the experts that it chose for them.
  virtual kernels::BFloat16* rows() = 0;  // [max_rows, hidden] bf16, device
  virtual int32_t* expert_ids() = 0;      // [max_rows, top_k], device, ascending within a row

  // Whether steps of at most `bucket` rows of each rank should travel as a bucket: BeginStep. The
  // same at all ranks.
  virtual bool TakesBucket(int bucket) const = 0;

  // Begins a step. num_rows: of each rank, the same at all ranks; none above max_rows, and their
  // sum above 0. Steps ascend.
  //
  // With a bucket above 0, which must not be below any of num_rows: every rank that owns rows gives
  // that many to each layer, of which those beyond its own count for nothing. Then all that
  // RunLayer enqueues follows from the bucket alone, so the layers may be run while the stream
  // captures a graph, and a graph of an earlier step of the same bucket may be launched in their
  // place. All ranks run, capture or launch in the same step, and run the first one of a bucket:
  // connections and kernels that a capture must find are made then.
  virtual absl::Status BeginStep(uint64_t step, absl::Span<const int> num_rows, int bucket) = 0;

  // One layer: rows out, this rank's experts, outputs back. Every rank calls it for every layer,
  // in ascending order, its rows and expert_ids enqueued before. Returns one unreduced row for each
  // (row, chosen expert): [num_rows, top_k, hidden] bf16, device, valid until the next RunLayer;
  // null for a rank without rows. Aborted after Abort.
  virtual absl::StatusOr<const kernels::BFloat16*> RunLayer(int layer) = 0;

  // Waits until the device has done everything that the stream was given, and ends the step. Every
  // rank calls it in place of a wait for the stream: this one ends with the epoch, and says why.
  virtual absl::Status FinishStep() = 0;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_DEVICE_EXCHANGE_H_
