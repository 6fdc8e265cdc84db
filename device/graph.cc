#include "device/graph.h"

#include "device/status.h"

namespace moe::device {

absl::StatusOr<Graph> Graph::Capture(const Stream& stream,
                                     absl::FunctionRef<absl::Status()> enqueue) {
  // Calls of other threads do not disturb the capture, and NCCL may enqueue from threads of its
  // own.
  absl::Status status = ToStatus(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed),
                                 "beginning to capture a graph");
  if (!status.ok()) return status;
  const absl::Status enqueued = enqueue();
  // In any case: a stream that goes on capturing would run nothing any more.
  cudaGraph_t captured = nullptr;
  status = ToStatus(cudaStreamEndCapture(stream.get(), &captured), "capturing a graph");
  if (!enqueued.ok()) status = enqueued;
  cudaGraphExec_t graph = nullptr;
  if (status.ok()) {
    status = ToStatus(cudaGraphInstantiate(&graph, captured, 0), "making a graph");
  }
  if (captured != nullptr) static_cast<void>(cudaGraphDestroy(captured));
  if (!status.ok()) return status;
  return Graph(graph);
}

// A failure to destroy has no cause but a lost device, which every other call reports too.
Graph::~Graph() {
  if (graph_ != nullptr) static_cast<void>(cudaGraphExecDestroy(graph_));
}

absl::Status Graph::Launch(const Stream& stream) const {
  return ToStatus(cudaGraphLaunch(graph_, stream.get()), "launching a graph");
}

}  // namespace moe::device
