// The device memory of one rank's NCCL exchange: made once for a group's shape, used by all of its
// epochs, registered with each epoch's communicator.
//
// Not thread-safe. Tested by tests/worker/exchange/nccl/nccl_exchange_test.cc.
#ifndef MOE_WORKER_EXCHANGE_NCCL_EXCHANGE_BUFFERS_H_
#define MOE_WORKER_EXCHANGE_NCCL_EXCHANGE_BUFFERS_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "device/buffer.h"
#include "device/stream.h"
#include "kernels/bf16.h"
#include "kernels/cuda/exchange_rows.h"
#include "kernels/experts.h"
#include "worker/exchange/exchange.h"
#include "worker/exchange/nccl/layer_plan.h"
#include "worker/exchange/nccl/step_pattern.h"

namespace moe::exchange {

// Shapes: sizes() says how many rows of [hidden] bf16, or elements, each has; one that has none is
// null. N ranks, A sources, E local experts.
class ExchangeBuffers {
 public:
  // Waits for the device. ResourceExhausted where memory does not suffice.
  static absl::StatusOr<std::unique_ptr<ExchangeBuffers>> Create(const GroupShape& shape, int rank,
                                                                 int max_slot_rows,
                                                                 const device::Stream& stream);
  // What Create takes of the device's memory, at most.
  static uint64_t DeviceBytes(const GroupShape& shape, int rank, int max_slot_rows);

  const GroupShape& shape() const { return shape_; }
  int rank() const { return rank_; }
  int max_slot_rows() const { return max_slot_rows_; }
  const BufferSizes& sizes() const { return sizes_; }
  // [N], on the host.
  const std::vector<int32_t>& slots() const { return host_slots_; }

  // Where a buffer of transfers begins; and all of them, with their bytes.
  void* address(ExchangeBuffer buffer) const;
  std::vector<std::pair<void*, size_t>> registrable() const;

  kernels::BFloat16* rows() const { return rows_.data(); }
  int32_t* expert_ids() const { return expert_ids_.data(); }
  // Where this rank has the routes of all sources.
  int32_t* all_expert_ids() const {
    return sizes_.all_expert_ids > 0 ? all_expert_ids_.data() : expert_ids_.data();
  }
  // What this rank's experts read when rows have come in.
  kernels::BFloat16* input() const { return sizes_.input > 0 ? input_.data() : rows_.data(); }
  kernels::BFloat16* packed() const { return packed_.data(); }
  kernels::BFloat16* outputs() const { return outputs_.data(); }
  kernels::BFloat16* returned() const { return returned_.data(); }
  kernels::BFloat16* result() const { return sizes_.result > 0 ? result_.data() : outputs_.data(); }

  // ---- Places, as exchange_rows.h has them
  kernels::cuda::Holders holders() const;
  const int32_t* device_slots() const { return slots_.data(); }                // [N]
  const int32_t* device_slots_before() const { return slots_before_.data(); }  // [N]
  kernels::cuda::CompactPlaces incoming() const;  // groups are the A sources
  kernels::cuda::CompactPlaces outgoing() const;  // groups are the N ranks
  int32_t* scratch() const { return scratch_.data(); }
  int32_t* offsets() const { return offsets_.data(); }  // [E + 1]
  kernels::ExpertRow* pairs() const { return pairs_.data(); }

  // Rows of each source in the current step: [A]
  int32_t* device_num_rows() const { return num_rows_.data(); }
  int32_t* host_num_rows() const { return host_num_rows_.data(); }  // pinned

  // The bounds that CountIncoming and CountOutgoing found, read back.
  struct Bounds {
    absl::Span<const int32_t> incoming_rows;   // [A + 1]
    absl::Span<const int32_t> incoming_pairs;  // [A + 1]
    absl::Span<const int32_t> outgoing_rows;   // [N + 1]
    absl::Span<const int32_t> outgoing_pairs;  // [N + 1]
  };
  // Enqueues the copy to the host; bounds() holds when the stream has got there.
  absl::Status ReadBounds(const device::Stream& stream);
  Bounds bounds() const;

  // For the canary: [1 + 2 N] int32, on the device and pinned.
  int32_t* device_canary() const { return canary_.data(); }
  int32_t* host_canary() const { return host_canary_.data(); }

 private:
  ExchangeBuffers(const GroupShape& shape, int rank, int max_slot_rows);
  // Calls visit(elements, buffer) for each buffer on the device; the first error.
  template <typename Visit>
  absl::Status ForEachOnDevice(Visit visit);
  absl::Status Allocate();
  absl::Status Fill(const device::Stream& stream);

  int64_t num_bounds() const;
  int64_t num_canaries() const { return 1 + 2 * int64_t{shape_.num_ranks}; }

  const GroupShape shape_;
  const int rank_;
  const int max_slot_rows_;
  const BufferSizes sizes_;
  const std::vector<int32_t> host_slots_;

  device::DeviceBuffer<kernels::BFloat16> rows_, input_, packed_, outputs_, returned_, result_;
  device::DeviceBuffer<int32_t> expert_ids_, all_expert_ids_;
  device::DeviceBuffer<kernels::ExpertRow> pairs_;
  device::DeviceBuffer<int32_t> rank_of_expert_, local_of_expert_, slots_, slots_before_;
  // [4, places]: rows_before and pairs_before of both directions; then the bounds of both.
  device::DeviceBuffer<int32_t> places_, bounds_;
  device::DeviceBuffer<int32_t> scratch_, offsets_, num_rows_, canary_;
  device::PinnedBuffer<int32_t> host_bounds_, host_num_rows_, host_canary_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_EXCHANGE_BUFFERS_H_
