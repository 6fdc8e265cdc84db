// The layers of an epoch on a GPU: enqueued launch by launch, or as a graph that was captured
// before.
//
// Tested by tests/worker/cuda/layer_loop_test.cc.
#ifndef MOE_WORKER_CUDA_LAYER_LOOP_H_
#define MOE_WORKER_CUDA_LAYER_LOOP_H_

#include <cstdint>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "device/graph.h"
#include "device/stream.h"
#include "worker/cuda/decoder.h"
#include "worker/cuda/experts.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/decoder.h"

namespace moe::cuda {

class CudaLayerLoop : public model::LayerLoop {
 public:
  struct Options {
    int rank = 0;
    int num_layers = 0;
    // Decode steps are padded and launched as graphs. Only where what the exchange enqueues follows
    // from the number of rows alone.
    bool graphs = false;
    int max_graphs = 64;  // the shape that was not used for longest goes first
  };

  // What is pointed to is not owned and must outlive this. `decoder` is null for a rank that only
  // holds experts. Graphs hold addresses of the exchange's memory, so they end with this.
  CudaLayerLoop(CudaDecoder* decoder, RankDeviceExperts* experts,
                exchange::DeviceExchange* exchange, const device::Stream* stream,
                const Options& options);
  ~CudaLayerLoop() override;
  CudaLayerLoop(const CudaLayerLoop&) = delete;
  CudaLayerLoop& operator=(const CudaLayerLoop&) = delete;

  bool collective() const override { return true; }
  // Returns when all is enqueued; a rank without a decoder waits for the device.
  absl::Status Run(uint64_t step, absl::Span<const int> num_rows) override;

  // That have been captured.
  int num_graphs() const;

 private:
  absl::Status Enqueue();
  absl::Status RunGraph();

  CudaDecoder* const decoder_;
  RankDeviceExperts* const experts_;
  exchange::DeviceExchange* const exchange_;
  const device::Stream* const stream_;
  const Options options_;
  std::vector<int> num_rows_;  // of each rank, with padding
  // By what they depend on; used last first. A shape that was seen once has none yet: its kernels
  // are loaded when they are first launched, which a capture must not do.
  std::list<std::pair<StepShape, std::optional<device::Graph>>> graphs_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_LAYER_LOOP_H_
