// Brings a rank's weights from a checkpoint's mapping to the device, through pinned memory: while
// one part is under way, the next is read.
//
// Tested by tests/worker/cuda/weight_loader_test.cc.
#ifndef MOE_WORKER_CUDA_WEIGHT_LOADER_H_
#define MOE_WORKER_CUDA_WEIGHT_LOADER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/bf16.h"
#include "worker/cuda/weight_layout.h"

namespace moe::cuda {

// Not thread-safe.
class WeightLoader {
 public:
  // copies: as WeightLayout has them. `stream` is not owned and must outlive this.
  static absl::StatusOr<std::unique_ptr<WeightLoader>> Create(std::vector<WeightCopy> copies,
                                                              const device::Stream* stream);

  // Copies what of `values` belongs to the layout. They may go away when this returns.
  absl::Status Add(absl::Span<const kernels::BFloat16> values);
  // Waits until all is there. Internal when a value was never given.
  absl::Status Finish();

 private:
  // Pinned memory, and the point at which the stream has read it.
  struct Staging {
    device::PinnedBuffer<kernels::BFloat16> values;
    device::Event read;
    bool in_use = false;
  };

  WeightLoader(std::vector<WeightCopy> copies, const device::Stream* stream,
               std::vector<Staging> staging);
  // Elements [begin, end) of a copy.
  absl::Status Stage(const WeightCopy& copy, int64_t begin, int64_t end);

  const std::vector<WeightCopy> copies_;
  const device::Stream* const stream_;
  std::vector<Staging> staging_;
  size_t next_staging_ = 0;
  int64_t num_missing_ = 0;  // elements
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_WEIGHT_LOADER_H_
