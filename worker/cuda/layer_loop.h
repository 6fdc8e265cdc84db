// The layers of an epoch on a GPU: enqueued launch by launch, or as a graph that was captured
// before.
//
// Tested by tests/worker/cuda/layer_loop_test.cc.
#ifndef MOE_WORKER_CUDA_LAYER_LOOP_H_
#define MOE_WORKER_CUDA_LAYER_LOOP_H_

#include <list>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "device/graph.h"
#include "device/stream.h"
#include "worker/cuda/buffers.h"
#include "worker/cuda/decoder.h"
#include "worker/cuda/experts.h"
#include "worker/cuda/step_upload.h"
#include "worker/exchange/device_exchange.h"
#include "worker/model/config.h"
#include "worker/model/decoder.h"

namespace moe::cuda {

class CudaLayerLoop : public model::LayerLoop {
 public:
  struct Options {
    int rank = 0;
    RankSizes sizes;
    // Decode steps that the exchange takes as a bucket are padded and launched as graphs. The same
    // at all ranks.
    bool graphs = false;
    int max_graphs = 64;  // the shape that was not used for longest goes first
  };

  // What is pointed to is not owned and must outlive this. `decoder` is null for a rank that only
  // holds experts. Graphs hold addresses of the exchange's memory, and its communicator, whose end
  // waits for them: they end with this.
  CudaLayerLoop(const model::ModelConfig& config, CudaDecoder* decoder, RankDeviceExperts* experts,
                exchange::DeviceExchange* exchange, const device::Stream* stream,
                const Options& options);
  ~CudaLayerLoop() override;
  CudaLayerLoop(const CudaLayerLoop&) = delete;
  CudaLayerLoop& operator=(const CudaLayerLoop&) = delete;

  bool collective() const override { return true; }
  bool asynchronous() const override { return true; }
  // Returns when all is enqueued; a rank without a decoder waits for the device.
  absl::Status Run(const model::StepOutline& outline) override;

  // That have been captured.
  int num_graphs() const;

 private:
  absl::Status Enqueue();
  absl::Status RunGraph(const StepShape& shape);

  const model::ModelConfig& config_;
  CudaDecoder* const decoder_;
  RankDeviceExperts* const experts_;
  exchange::DeviceExchange* const exchange_;
  const device::Stream* const stream_;
  const Options options_;
  // By what they depend on; used last first. All ranks see the same shapes in the same order, so
  // all have a graph for the same ones. A shape that was seen once has none yet: its kernels are
  // loaded and its connections made when they are first used, which a capture must not do.
  std::list<std::pair<StepShape, std::optional<device::Graph>>> graphs_;
};

}  // namespace moe::cuda

#endif  // MOE_WORKER_CUDA_LAYER_LOOP_H_
