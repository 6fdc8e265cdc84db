// Work of a stream that was captured once and can be launched many times, at the cost of one
// launch. Movable owner; not thread-safe.
// Tested by tests/worker/cuda/layer_loop_test.cc and, on a GPU, tests/device/gpu_memory_test.cc.
#ifndef MOE_DEVICE_GRAPH_H_
#define MOE_DEVICE_GRAPH_H_

#include <cuda_runtime_api.h>

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "device/stream.h"

namespace moe::device {

class Graph {
 public:
  // Keeps what `enqueue` gives to `stream` instead of running it: kernels and copies with the
  // arguments that they have now. `enqueue` must not wait for the stream. Its error is returned.
  static absl::StatusOr<Graph> Capture(const Stream& stream,
                                       absl::FunctionRef<absl::Status()> enqueue);
  ~Graph();
  Graph(Graph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }

  // Enqueues all of it.
  absl::Status Launch(const Stream& stream) const;

 private:
  explicit Graph(cudaGraphExec_t graph) : graph_(graph) {}

  cudaGraphExec_t graph_;
};

}  // namespace moe::device

#endif  // MOE_DEVICE_GRAPH_H_
