// DeviceExchange over NCCL: the rows of a step, by the pattern that its plan makes the best
// (step_pattern.h). Every pattern gives the same bits.
//
// Steps of a bucket travel in slots, so that a graph can hold them. A graph holds the epoch's
// communicator, whose abort waits for it (NCCL 2.28, commDestroySync): graphs are dropped when a
// call has returned an error, and with the epoch. A capture of the stream has to be relaxed
// (cudaStreamCaptureModeRelaxed): NCCL's non-blocking communicators launch from a thread of their
// own. Whether NCCL's transfers can be captured so has not been tried on a GPU yet.
//
// Tested by tests/worker/exchange/nccl/nccl_exchange_test.cc and nccl_exchange_fault_test.cc, on
// the emulator; nccl_gpu_test.cc needs GPUs.
#ifndef MOE_WORKER_EXCHANGE_NCCL_NCCL_EXCHANGE_H_
#define MOE_WORKER_EXCHANGE_NCCL_NCCL_EXCHANGE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "device/stream.h"
#include "kernels/cuda/gpu.h"
#include "worker/exchange/device_exchange.h"
#include "worker/exchange/exchange_counters.h"
#include "worker/exchange/nccl/exchange_buffers.h"
#include "worker/exchange/nccl/layer_plan.h"
#include "worker/exchange/nccl/nccl_epoch.h"
#include "worker/exchange/nccl/step_pattern.h"

namespace moe::exchange {

// None is owned; all must outlive the exchange.
struct NcclExchangeParts {
  NcclEpoch* epoch = nullptr;
  ExchangeBuffers* buffers = nullptr;      // of the epoch's shape and rank
  const device::Stream* stream = nullptr;  // that the communicator enqueues in, too
  int num_sms = 1;                         // of the device
  bool overlaps_kernels = false;           // kernels::cuda::Gpu
  DeviceExperts* experts = nullptr;
};

// Threads: the rank's engine thread, and stats from any. An error, but for a call that can't be
// (FailedPrecondition, InvalidArgument), has ended the epoch.
class NcclExchange final : public DeviceExchange {
 public:
  // InvalidArgument: a part is missing, or the buffers are of another rank or shape.
  static absl::StatusOr<std::unique_ptr<NcclExchange>> Create(const NcclExchangeParts& parts,
                                                              const PatternThresholds& thresholds);

  // All ranks, once, when the epoch is connected: registers the buffers, and sends a canary from
  // every rank to every rank, both by an all-gather and by itself. That also makes the connections
  // that a captured graph must find. Internal names the rank whose canary came with wrong bits.
  absl::Status Connect();

  kernels::BFloat16* rows() override { return buffers_->rows(); }
  int32_t* expert_ids() override { return buffers_->expert_ids(); }
  bool TakesBucket(int bucket) const override;
  absl::Status BeginStep(uint64_t step, absl::Span<const int> num_rows, int bucket) override;
  absl::StatusOr<const kernels::BFloat16*> RunLayer(int layer) override;

  absl::Status FinishStep() override;

  Pattern pattern() const { return pattern_.pattern; }  // of the last step
  // Bytes are those of transfers with other ranks, as planned, padding included.
  // Times are 0: the host does not see when the device waits.
  ExchangeStats stats() const { return counters_.stats(); }

 private:
  NcclExchange(const NcclExchangeParts& parts, const PatternThresholds& thresholds);

  absl::Status CheckCanaries();
  absl::Status RunSlots(int layer);
  absl::Status RunAllToAll(int layer);
  absl::Status RunReplicatedSlots(int layer);
  absl::Status RunReplicatedExact(int layer);
  // Enqueues this rank's experts for what SortIncoming finds.
  absl::Status RunExperts(int layer, const kernels::cuda::Routes& routes,
                          const kernels::cuda::IncomingPlaces& places, const DevicePairs& bounds,
                          const kernels::BFloat16* x, kernels::BFloat16* out);
  absl::Status Scatter(const kernels::cuda::ReturnedPlaces& places);
  // Enqueues the read-back of the counts and waits for it.
  absl::Status ReadBounds();
  absl::Status CheckBounds(bool has_incoming, bool has_outgoing) const;
  absl::Status Move(const LayerPlan& plan, Counter* bytes);
  // What a layer of slots moves, out and back.
  LayerPlan SlotsOut() const;
  LayerPlan SlotsBack() const;
  // Bytes that come in with a plan; of a send, what goes out is counted by who gets it.
  uint64_t BytesIn(const LayerPlan& plan) const;
  // Waits until the device has done everything that the stream was given.
  absl::Status AwaitStream();

  bool is_source() const {
    return shape_.replicated || epoch_->rank() < shape_.num_attention_ranks;
  }
  // This rank's rows in the routes, and those of all sources.
  kernels::cuda::Routes own_routes() const;
  kernels::cuda::Routes all_routes() const;
  // The most rows that this layer can have: of all sources, of this rank.
  int num_all_rows() const { return num_all_rows_; }
  int num_own_rows() const { return is_source() ? count_[own_source()] : 0; }
  int own_source() const { return shape_.replicated ? 0 : epoch_->rank(); }

  NcclEpoch* const epoch_;
  ExchangeBuffers* const buffers_;
  const device::Stream* const stream_;
  const kernels::cuda::Gpu gpu_;
  DeviceExperts* const experts_;
  const PatternThresholds thresholds_;
  const GroupShape shape_;
  const int num_local_experts_;
  std::vector<device::Event> event_;  // one

  bool is_connected_ = false;
  bool is_bucket_ = false;  // the step is
  StepPattern pattern_;
  std::vector<int> count_;  // [num sources]: rows of each that transfers carry
  int num_all_rows_ = 0;
  std::vector<Transfer> transfers_;  // scratch
  ExchangeCounters counters_;
};

}  // namespace moe::exchange

#endif  // MOE_WORKER_EXCHANGE_NCCL_NCCL_EXCHANGE_H_
